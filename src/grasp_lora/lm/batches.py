"""Examples to tensors: encoding, cutting to length, left padding, batches by token budget.

Batches are padded on the left so that targets end together; then only the last k positions need
logits. With a vocabulary of 262k that is half of the work of a training step.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grasp_lora.errors import GraspError
from grasp_lora.tasks.example import Example

__all__ = ["Encoded", "TargetCollator", "batches_by_tokens", "encode", "encode_prompt", "lost_targets"]

IGNORED = -100  # the label that transformers and torch.nn.functional.cross_entropy leave out
MAX_CUTS = 8  # tokenizations that look for the longest body that fits


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of prompt and target: the last `targets` are to be predicted, and `lost` more were cut."""

    input_ids: tuple[int, ...]
    targets: int
    lost: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


def encode_prompt(example: Example, tokenizer: Any, limit: int) -> list[int]:
    """Token ids of the prompt, with the tokenizer's own start token.

    A prompt longer than `limit` tokens loses the end of its body (the article, the context), never the
    words around it that say what to do.

    Raises:
        GraspError: The prompt does not fit without any body, or it has none to cut.
    """
    start, stop = example.body or (len(example.prompt), len(example.prompt))

    def with_body(characters: int) -> list[int]:
        kept = example.prompt[: start + characters]
        if characters < stop - start:
            kept = kept[:start] + kept[start:].rstrip()
        ids: list[int] = tokenizer(kept + example.prompt[stop:])["input_ids"]
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids.pop()  # some tokenizers end every text; the answer is still to come
        return ids

    whole = with_body(stop - start)
    if len(whole) <= limit:
        return whole
    best = with_body(0)
    if len(best) > limit:
        raise GraspError(
            f"example {example.id}: its prompt has {len(best)} tokens without the body that may be cut, "
            f"where {limit} fit; raise max_length or shorten the prompt template"
        )
    # The longest body that fits, by interpolation: characters are nearly proportional to tokens.
    low, high = (0, len(best)), (stop - start, len(whole))  # (characters, tokens): fits, does not
    for _ in range(MAX_CUTS):
        room = (limit + 0.5 - low[1]) / (high[1] - low[1])
        middle = low[0] + round(room * (high[0] - low[0]))
        middle = min(max(middle, low[0] + 1), high[0] - 1)
        if low[1] == limit or not low[0] < middle < high[0]:
            break
        ids = with_body(middle)
        if len(ids) <= limit:
            low, best = (middle, len(ids)), ids
        else:
            high = (middle, len(ids))
    return best


def encode(
    example: Example, tokenizer: Any, *, max_length: int, max_new_tokens: int | None = None
) -> Encoded:
    """Prompt, target and end-of-text as token ids.

    Args:
        max_length: Most tokens of prompt and target together (GRASP: 2200, new tokens included).
        max_new_tokens: Most tokens of the target, end-of-text included; a longer one loses its end. The
            prompt gets what then remains of `max_length`. None: the target is kept whole, whatever it takes.

    Raises:
        GraspError: Prompt and target do not fit together.
    """
    target = [*tokenizer(example.target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    room = max_length - (len(target) if max_new_tokens is None else max_new_tokens)
    kept = target if max_new_tokens is None else target[:max_new_tokens]
    return Encoded((*encode_prompt(example, tokenizer, room), *kept), len(kept), len(target) - len(kept))


def lost_targets(encoded: Sequence[Encoded]) -> str:
    """What cutting the targets to `max_new_tokens` cost, in a sentence; empty where it cost nothing."""
    cut = [e for e in encoded if e.lost]
    if not cut:
        return ""
    limit, longest = cut[0].targets, max(e.targets + e.lost for e in cut)
    return (
        f"{len(cut)} of {len(encoded)} answers are longer than max_new_tokens = {limit} (the longest has "
        f"{longest}) and lose their end, end-of-text included"
    )


class TargetCollator:
    """Pads on the left and labels only the last k positions, k = longest target + 1.

    The batch has `input_ids`, `attention_mask` and `position_ids` of shape (batch, length), `labels` of
    shape (batch, k) and `logits_to_keep` = k. Where the model's forward lacks `logits_to_keep`, `labels`
    has shape (batch, length); where it lacks `position_ids`, they are left out. The loss is the same.

    Args:
        tokenizer: Gives the padding id.
        model: The base model or a PEFT model around it, to see what its forward takes.
    """

    def __init__(self, tokenizer: Any, model: nn.Module) -> None:
        inner: Any = model  # a PEFT model's own forward says nothing about what it takes
        base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        accepted = inspect.signature(base.forward).parameters
        self.pad_id: int = tokenizer.pad_token_id
        self.only_targets = "logits_to_keep" in accepted
        self.positions = "position_ids" in accepted

    def __call__(self, examples: Sequence[Encoded]) -> dict[str, Tensor | int]:
        length = max(len(e) for e in examples)
        # A text that is all target, without a start token, has nothing to predict its first token from.
        kept = min(length, max(e.targets for e in examples) + 1) if self.only_targets else length
        input_ids = torch.full((len(examples), length), self.pad_id)
        attention_mask = torch.zeros((len(examples), length), dtype=torch.long)
        labels = torch.full((len(examples), kept), IGNORED)
        for row, example in enumerate(examples):
            ids = torch.tensor(example.input_ids)
            input_ids[row, length - len(example) :] = ids
            attention_mask[row, length - len(example) :] = 1
            labels[row, kept - example.targets :] = ids[len(example) - example.targets :]
        batch: dict[str, Tensor | int] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels,
        }
        if self.positions:
            batch["position_ids"] = (attention_mask.cumsum(1) - 1).clamp_(min=0)
        if self.only_targets:
            batch["logits_to_keep"] = kept
        return batch


def batches_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices, longest first, so that rows times longest row stays within `budget` tokens.

    A row longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for i in _longest_first(lengths):
        if batches and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
            longest = lengths[i]
    return batches


def _longest_first(lengths: Sequence[int]) -> Iterable[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
