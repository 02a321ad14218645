"""What an optimizer remembers of entries that a mask takes away or brings back."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grasp_lora.control.bits import multiply
from grasp_lora.control.blocks import Blocks
from grasp_lora.errors import GraspError

__all__ = ["reset_optimizer_state"]


def reset_optimizer_state(
    optimizer: Optimizer, parameters: Sequence[nn.Parameter], changed: Sequence[Tensor]
) -> None:
    """Zero the optimizer's per-entry state (Adam's moments, momentum) where `changed` is True.

    Single numbers, such as the step counter, are kept.

    Raises:
        GraspError: A state tensor is not of the parameter's shape (Adafactor's sums over rows and columns),
            so that no entry has a part of its own to clear; or it is not floating point (an 8-bit optimizer),
            so that zero bits need not mean a zero moment.
    """
    states, keep = [], []
    unchanged = changed.map(torch.logical_not) if isinstance(changed, Blocks) else [~c for c in changed]
    for parameter, kept in zip(parameters, unchanged, strict=True):
        for name, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or (value.numel() == 1 and value.shape != parameter.shape):
                continue
            if value.shape != parameter.shape:
                raise GraspError(
                    f"cannot clear '{name}' of shape {tuple(value.shape)} entry by entry: use an optimizer "
                    "such as AdamW, or reset_moments=False"
                )
            if not value.is_floating_point():
                raise GraspError(f"cannot clear '{name}' of type {value.dtype}; use a 32-bit optimizer")
            states.append(value)
            keep.append(kept)
    multiply(states, keep, out=states)
