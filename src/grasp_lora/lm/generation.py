"""Greedy generation in batches."""

import copy
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from grasp_lora.lm.batches import batches_by_tokens
from grasp_lora.lm.chat import PromptFormat, end_of_turn
from grasp_lora.lm.encoding import Limits, encode_prompt
from grasp_lora.lm.loss import evaluation_mode
from grasp_lora.tasks.example import Example

__all__ = ["generate", "generate_ids", "stream"]


def generate(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    limits: Limits,
    seen: Callable[[int], None] | None = None,
) -> list[str]:
    """Greedy answers to the examples' prompts, in their order; never the prompt, stripped of outer space.

    Prompts are padded on the left and batched longest first; a KV cache is used. An answer ends before the
    first stop token (end-of-text, what else the model's generation config names, or the chat template's end
    of a turn), or after `limits.max_new_tokens`. The token budget counts prompt padding and new tokens.

    Args:
        seen: Told how many answers each batch had, once it is done.
    """
    new = limits.answer
    form = limits.prompt_format
    prompts = [encode_prompt(example, tokenizer, limits.max_length - new, form) for example in examples]
    answers = [""] * len(prompts)
    stops = _stop_tokens(model, tokenizer, form)
    with evaluation_mode(model):
        for rows in batches_by_tokens([len(p) + new for p in prompts], limits.token_budget):
            output = generate_ids(model, tokenizer, [prompts[i] for i in rows], new, prompt_format=form)
            # stop tokens need not be special ones, which decoding would skip
            kept = [list(takewhile(lambda token: token not in stops, row)) for row in output.tolist()]
            texts = tokenizer.batch_decode(kept, skip_special_tokens=True)
            for i, text in zip(rows, texts, strict=True):
                answers[i] = text.strip()
            if seen is not None:
                seen(len(rows))
    return answers


def generate_ids(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    min_new_tokens: int = 0,
    streamer: Any = None,
    prompt_format: PromptFormat = "plain",
) -> Tensor:
    """Greedy continuations of one batch of encoded prompts, (prompts, longest answer) token ids.

    Answers that end earlier are filled with the padding id after their stop token. Of the model's generation
    config only the stop tokens count: its penalties, say, would make the answers no longer greedy.
    """
    width = max(len(prompt) for prompt in prompts)
    padded = [[tokenizer.pad_token_id] * (width - len(prompt)) + [*prompt] for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    device = next(model.parameters()).device
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(_stop_tokens(model, tokenizer, prompt_format)),
        pad_token_id=tokenizer.pad_token_id,
    )
    # What the settings leave open, transformers takes from the model's own config: hide that, on a copy that
    # shares the weights. PEFT's wrapper is left out, as it would hand its config down to the original.
    plain = copy.copy(model.get_base_model() if hasattr(model, "get_base_model") else model)
    plain.generation_config = GenerationConfig()
    output: Tensor = plain.generate(
        input_ids=torch.tensor(padded, device=device),
        attention_mask=torch.tensor(mask, device=device),
        generation_config=settings,
        streamer=streamer,
    )
    return output[:, width:]


def stream(model: Any, tokenizer: Any, example: Example, limits: Limits) -> None:
    """A greedy answer to one prompt, on standard output as it is written."""
    from transformers import TextStreamer

    form = limits.prompt_format
    prompt = encode_prompt(example, tokenizer, limits.max_length - limits.answer, form)
    printer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with evaluation_mode(model):
        generate_ids(model, tokenizer, [prompt], limits.answer, streamer=printer, prompt_format=form)


def _stop_tokens(model: Any, tokenizer: Any, prompt_format: PromptFormat) -> set[int]:
    """Chat models end an answer with another token than a text, and name both; models that only have a chat
    template do not name its.
    """
    own = model.generation_config.eos_token_id
    named = {tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])} - {None}
    return named | {end_of_turn(tokenizer)} if prompt_format == "chat" else named
