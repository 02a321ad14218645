"""What an optimizer remembers of entries that a mask takes away or brings back."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grasp_lora.control.bits import zero_outside
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
    if not isinstance(changed, Blocks):
        changed = Blocks.copied(changed, [[i] for i in range(len(changed))])
    states: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for i, (parameter, _) in enumerate(zip(parameters, changed, strict=True)):
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
            states[name][i] = value
    unchanged = changed.map(torch.logical_not)
    for of_name in states.values():
        zero_outside(of_name, unchanged)
