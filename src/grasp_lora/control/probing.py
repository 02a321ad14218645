"""The reward of ratios that are not in force: each one's mask is tried and taken back."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.noise import paired_error
from grasp_lora.errors import GraspError
from grasp_lora.lm.loss import evaluation_mode
from grasp_lora.ranks import summed, world
from grasp_lora.ratios import PruneRatio

__all__ = ["Prober", "Reward", "Seen"]

Reward = Callable[[nn.Module], float | Tensor]
"""Of a model in eval mode: one number, or those of the examples that it is the mean of, (examples,)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The reward of one ratio, and those of its examples where there are any."""

    mean: float
    by_example: tuple[float, ...] = ()

    def error_against(self, other: "Seen", groups: Sequence[str] = ()) -> float | None:
        """The paired standard error of the difference; None where it is not known."""
        if not self.by_example or not other.by_example:
            return None
        return paired_error(self.by_example, other.by_example, groups)


@dataclass(slots=True)
class Prober:
    """Evaluates a reward under the mask in force and under others.

    Args:
        model: With the adapter that is masked.
        masked: Its dense values and masks.
        reward: Called with the model in eval mode, without gradients. In a distributed run every rank calls
            it, and the mean over the ranks counts, so that their policies stay in step.
        seconds: What the reward itself has taken so far.
        of: What a message calls it.
    """

    model: nn.Module
    masked: MaskedAdapter
    reward: Reward
    seconds: float = 0.0
    of: str = "reward"

    def base(self) -> Seen:
        """R~ of the committed mask.

        Raises:
            GraspError: The reward is not a finite number.
        """
        return self._evaluate(self.masked.p)

    def at(self, ratios: Sequence[PruneRatio]) -> list[Seen]:
        """R~(p) of each ratio; equal ones are evaluated once, as those that were clamped to one bound.

        Raises:
            GraspError: A reward is not a finite number.
        """
        known: dict[PruneRatio, Seen] = {}
        with self.masked.probing(ratios) as apply:
            for i, p in enumerate(ratios):
                if p not in known:
                    apply(i)
                    known[p] = self._evaluate(p)
        return [known[p] for p in ratios]

    def _evaluate(self, p: PruneRatio) -> Seen:
        with evaluation_mode(self.model):  # for each, since a reward may leave some of it in training mode
            start = time.perf_counter()
            rewards = self._mean_over_ranks(torch.as_tensor(self.reward(self.model), dtype=torch.float64))
            mean = rewards.mean().item()
            self.seconds += time.perf_counter() - start
        if not math.isfinite(mean):
            raise GraspError(f"the {self.of} at p = {p:.4f} is {mean}")
        return Seen(mean, tuple(rewards.tolist()) if rewards.ndim else ())

    def _mean_over_ranks(self, rewards: Tensor) -> Tensor:
        if world() == 1:
            return rewards
        return summed(rewards.to(self.masked.parameters[0].device, copy=True)) / world()
