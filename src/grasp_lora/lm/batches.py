"""Token ids to batches: left padding, logits at targets only, batches by token budget.

Batches are padded on the left so that targets end together; then only the last k positions need
logits. With a vocabulary of 262k that is half of the work of a training step.
"""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from grasp_lora.lm.encoding import Encoded

__all__ = ["IGNORED", "TargetCollator", "batches_by_tokens"]

IGNORED = -100  # the label that transformers and torch.nn.functional.cross_entropy leave out


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
