"""What an optimizer remembers of entries that a mask takes away or brings back."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from grasp_lora.control.bits import multiply
from grasp_lora.errors import GraspError

__all__ = ["reset_optimizer_state"]


def reset_optimizer_state(
    optimizer: Optimizer, parameters: Sequence[nn.Parameter], changed: Sequence[Tensor]
) -> None:
    """Zero the optimizer's per-entry state (Adam's moments, momentum) where `changed` is True.

    State of any other shape than the parameter's, such as the step counter, is kept.

    Raises:
        GraspError: A state tensor of the parameter's shape is not floating point (an 8-bit optimizer),
            so that zero bits need not mean a zero moment.
    """
    states, keep = [], []
    for parameter, entries in zip(parameters, changed, strict=True):
        kept = ~entries
        for name, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or value.shape != parameter.shape:
                continue
            if not value.is_floating_point():
                raise GraspError(f"cannot clear '{name}' of type {value.dtype}; use a 32-bit optimizer")
            states.append(value)
            keep.append(kept)
    multiply(states, keep, out=states)
