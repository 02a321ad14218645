"""Do two forms of one model say the same? Their logits on a few prompts, side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grasp_lora.errors import GraspError
from grasp_lora.lm.loss import evaluation_mode

__all__ = ["PROMPTS", "ROUNDING", "Agreement", "agreement", "check_agreement", "logits_of"]

PROMPTS = (
    "The quick brown fox jumps over the lazy dog, and then",
    "Summarize: the river rose overnight, and by morning the lower road was closed.\n",
    "In 1969, 3 people flew to the moon. Two of them",
    "def mean(values):\n    return",
)
ROUNDING = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""What the logits may differ by in each number format, as a share of their spread."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two forms' logits are apart, over all positions of all prompts.

    Attributes:
        apart: The root mean square of the difference, as a share of the logits' own deviation from their
            mean at each position.
        same_first: Share of positions where both have the same most likely token.
    """

    apart: float
    same_first: float


@torch.no_grad()
def logits_of(model: Any, tokenizer: Any, prompts: Sequence[str] = PROMPTS) -> list[Tensor]:
    """Of each prompt, (tokens, vocabulary), in float32 on the CPU."""
    device = next(model.parameters()).device
    most = getattr(model.config, "max_position_embeddings", None)  # a small model has few
    with evaluation_mode(model):
        ids = [tokenizer(prompt, return_tensors="pt").input_ids[:, :most].to(device) for prompt in prompts]
        return [model(input_ids=one).logits[0].float().cpu() for one in ids]


def agreement(one: Sequence[Tensor], other: Sequence[Tensor]) -> Agreement:
    """Of two forms' `logits_of` the same prompts; `one` gives the scale."""
    first, second = torch.cat(list(one)).double(), torch.cat(list(other)).double()  # (all tokens, vocabulary)
    spread = (first - first.mean(-1, keepdim=True)).square().mean()
    apart = ((first - second).square().mean() / spread).sqrt()
    return Agreement(float(apart), float((first.argmax(-1) == second.argmax(-1)).double().mean()))


def check_agreement(
    original: Sequence[Tensor], bare: Sequence[Tensor], made: Sequence[Tensor], dtype: str, lost: float
) -> tuple[Agreement, float]:
    """The agreement of an export with its original, and what was allowed.

    That is `ROUNDING`, and where energy was given up three times its root of what the adapter itself changes:
    weights that are 10 % apart may move the logits by 30 % of what the adapter moves them by.

    Args:
        bare: The logits without any adapter.
        lost: The largest share of a delta W's energy that was given up.

    Raises:
        GraspError: They are further apart.
    """
    found = agreement(original, made)
    allowed = ROUNDING[dtype] + 3 * math.sqrt(lost) * agreement(original, bare).apart
    if not found.apart <= allowed:
        raise GraspError(
            f"the export's logits differ from the original's by {found.apart:.1e} of their spread, where "
            f"{allowed:.1e} is allowed; nothing was written"
        )
    return found, allowed
