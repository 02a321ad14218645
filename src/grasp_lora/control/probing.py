"""The reward of ratios that are not in force: each one's mask is tried and taken back."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.errors import GraspError
from grasp_lora.lm.loss import evaluation_mode

__all__ = ["Prober", "Reward"]

Reward = Callable[[nn.Module], float]


@dataclass(slots=True)
class Prober:
    """Evaluates a reward under the mask in force and under others.

    Args:
        model: With the adapter that is masked.
        masked: Its dense values and masks.
        reward: Called with the model in eval mode, without gradients. In a distributed run every rank calls
            it, and the mean over the ranks counts, so that their policies stay in step.
        seconds: What the reward itself has taken so far.
    """

    model: nn.Module
    masked: MaskedAdapter
    reward: Reward
    seconds: float = 0.0

    def base(self) -> float:
        """R~ of the committed mask.

        Raises:
            GraspError: The reward is not a finite number.
        """
        with evaluation_mode(self.model):
            return self._evaluate(self.masked.p)

    def at(self, ratios: Sequence[float]) -> list[float]:
        """R~(p) of each ratio; equal ones are evaluated once, as those that were clamped to one bound.

        Raises:
            GraspError: A reward is not a finite number.
        """
        known: dict[float, float] = {}
        with evaluation_mode(self.model), self.masked.probing(ratios) as apply:
            for i, p in enumerate(ratios):
                if p not in known:
                    apply(i)
                    known[p] = self._evaluate(p)
        return [known[p] for p in ratios]

    def _evaluate(self, p: float) -> float:
        start = time.perf_counter()
        value = self._mean_over_ranks(float(self.reward(self.model)))
        self.seconds += time.perf_counter() - start
        if not math.isfinite(value):
            raise GraspError(f"the reward at p = {p:.4f} is {value}")
        return value

    def _mean_over_ranks(self, reward: float) -> float:
        if not torch.distributed.is_initialized():
            return reward
        total = torch.tensor(reward, dtype=torch.float64, device=self.masked.parameters[0].device)
        torch.distributed.all_reduce(total)
        return total.item() / torch.distributed.get_world_size()
