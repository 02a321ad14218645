"""Greedy generation in batches."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grasp_lora.lm.batches import batches_by_tokens, encode_prompt
from grasp_lora.lm.loss import evaluation_mode
from grasp_lora.tasks.example import Example

__all__ = ["generate", "generate_ids"]


def generate(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    max_length: int = 2200,
    max_new_tokens: int = 128,
    token_budget: int = 4096,
) -> list[str]:
    """Greedy answers to the examples' prompts, in their order; never the prompt, stripped of outer space.

    Prompts are padded on the left and batched longest first; a KV cache is used. An answer ends at
    end-of-text or after `max_new_tokens`.

    Args:
        max_length: Most tokens of prompt and answer together.
        token_budget: Most tokens of one batch, prompt padding and new tokens included.
    """
    prompts = [encode_prompt(example, tokenizer, max_length - max_new_tokens) for example in examples]
    answers = [""] * len(prompts)
    with evaluation_mode(model):
        for rows in batches_by_tokens([len(p) + max_new_tokens for p in prompts], token_budget):
            output = generate_ids(model, tokenizer, [prompts[i] for i in rows], max_new_tokens)
            texts = tokenizer.batch_decode(output, skip_special_tokens=True)
            for i, text in zip(rows, texts, strict=True):
                answers[i] = text.strip()
    return answers


def generate_ids(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options: Any
) -> Tensor:
    """Greedy continuations of one batch of encoded prompts, (prompts, longest answer) token ids.

    Answers that end earlier are filled with the padding id. `options` go to transformers' `generate`.
    """
    width = max(len(prompt) for prompt in prompts)
    padded = [[tokenizer.pad_token_id] * (width - len(prompt)) + [*prompt] for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    device = next(model.parameters()).device
    output: Tensor = model.generate(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=torch.tensor(mask, device=device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        top_k=None,
        top_p=None,
        temperature=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    return output[:, width:]
