"""Which weights a training run ends with: those of the best epoch on dev, or the average of all epochs."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from grasp_lora.errors import GraspError

__all__ = ["AverageOfEpochs", "BestEpoch"]


class BestEpoch(TrainerCallback):
    """Evaluates before the first step and after each epoch, stops early, and ends with the best weights.

    The start counts as epoch 0: where no epoch beats it, it is kept. Add it after a callback that masks, so
    that epoch 0 is the masked adapter.

    Args:
        trainer: The one it is added to.
        loss: The dev loss of a model; lower is better.
        patience: Epochs without a better loss before training stops.
        on_epoch: Called with each epoch and its loss; what it raises ends the run.
        keep_start: Whether epoch 0 may be the best. No where training itself prunes, since the start is not
            pruned yet.
    """

    def __init__(
        self,
        trainer: Trainer,
        loss: Callable[[nn.Module], float],
        patience: int = 3,
        on_epoch: Callable[[int, float], None] | None = None,
        *,
        keep_start: bool = True,
    ) -> None:
        self.trainer, self.loss, self.patience, self.on_epoch = trainer, loss, patience, on_epoch
        self._first = 0 if keep_start else 1
        self.losses: list[float] = []
        self._best: dict[str, torch.Tensor] = {}

    @property
    def epoch(self) -> int:
        """The best epoch so far; 0 is the start."""
        return min(
            range(min(self._first, len(self.losses) - 1), len(self.losses)), key=self.losses.__getitem__
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.losses = []
        self._evaluate()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._evaluate()
        if len(self.losses) - 1 - self.epoch >= self.patience:
            control.should_training_stop = True

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for name, parameter in _trainable(self.trainer.model).items():
            parameter.copy_(self._best[name])

    def _evaluate(self) -> None:
        value = self.loss(self.trainer.model)
        if not math.isfinite(value):
            raise GraspError(
                f"the dev loss at step {self.trainer.state.global_step} is {value}; lower the learning rate"
            )
        self.losses.append(value)
        if self.epoch == len(self.losses) - 1:
            self._best = {n: p.detach().clone() for n, p in _trainable(self.trainer.model).items()}
        self.trainer.log({"dev_loss": value})
        if self.on_epoch is not None:
            self.on_epoch(len(self.losses) - 1, value)


class AverageOfEpochs(TrainerCallback):
    """Ends with the mean of the weights after each epoch, the start excluded (Schmidt et al., 2023).

    It looks at no dev row. A mask must stay the same throughout: the mean is then under it, too.

    Attributes:
        epochs: How many were averaged.
    """

    def __init__(self) -> None:
        self.epochs = 0
        self._sums: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.epochs, self._sums = 0, {}

    @torch.no_grad()
    def on_epoch_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self.epochs += 1
        for name, parameter in _trainable(model).items():
            value = parameter.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        for name, parameter in _trainable(model).items():
            parameter.copy_(self._sums[name] / self.epochs)


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
