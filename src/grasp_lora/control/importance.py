"""How important an entry of an adapter is: its magnitude (GRASP), or what ALM takes (App. C).

GRASP's I_j = |W_j| * s has one global constant s > 0, which cannot change a ranking, so it is not computed.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["GradientImportance", "magnitude"]


def magnitude(entries: Tensor) -> Tensor:
    """|W_j|, in float32 or wider."""
    return entries.abs().to(torch.promote_types(entries.dtype, torch.float32))


class GradientImportance:
    """|w dL/dw|, smoothed: exponential average times uncertainty (App. C; Zhang et al., 2022).

    Call it after the optimizer's step and before the gradients are cleared.

    Args:
        parameters: The LoRA factors.
        beta1, beta2: Decay of the average and of the uncertainty.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], beta1: float = 0.85, beta2: float = 0.85) -> None:
        self.parameters, self.beta1, self.beta2 = list(parameters), beta1, beta2
        self._average = [torch.zeros_like(w) for w in self.parameters]
        self._uncertainty = [torch.zeros_like(w) for w in self.parameters]

    def state(self) -> dict[str, Tensor]:
        """What the next call depends on."""
        kinds = {"average": self._average, "uncertainty": self._uncertainty}
        return {f"{kind}.{i}": t for kind, tensors in kinds.items() for i, t in enumerate(tensors)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave.

        Raises:
            KeyError, RuntimeError: It is that of other parameters.
        """
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def __call__(self) -> list[Tensor]:
        """S = I_bar * U_bar, one tensor per factor."""
        for weight, average, uncertainty in zip(
            self.parameters, self._average, self._uncertainty, strict=True
        ):
            gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
            importance = (weight * gradient).abs()
            average.mul_(self.beta1).add_(importance, alpha=1 - self.beta1)
            uncertainty.mul_(self.beta2).add_((importance - average).abs(), alpha=1 - self.beta2)
        return [a * u for a, u in zip(self._average, self._uncertainty, strict=True)]
