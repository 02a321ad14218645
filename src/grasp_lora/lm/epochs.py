"""Which weights a training run ends with: those of the best epoch on dev, or the average of all epochs."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from transformers import Trainer

from grasp_lora.errors import GraspError
from grasp_lora.lm.checkpoints import CarriesState, misfit

__all__ = ["AverageOfEpochs", "BestEpoch"]


class BestEpoch(CarriesState):
    """Evaluates before the first step and after each epoch, stops early, and ends with the best weights.

    The start counts as epoch 0: where no epoch beats it, it is kept. Add it after a callback that masks, so
    that epoch 0 is the masked adapter.

    Args:
        trainer: The one it is added to.
        loss: The dev loss of a model; lower is better.
        patience: Epochs without a better loss before training stops.
        on_epoch: Called with each epoch and its loss; what it raises ends the run. A run that resumes calls
            it again with what went before.
        keep_start: Whether epoch 0 may be the best. No where training itself prunes, since the start is not
            pruned yet.
        defer: Whether the start is evaluated only with the first epoch, or by a training that goes on and
            does not defer it: one that is dropped before needs no loss.
    """

    def __init__(
        self,
        trainer: Trainer,
        loss: Callable[[nn.Module], float],
        patience: int = 3,
        on_epoch: Callable[[int, float], None] | None = None,
        *,
        keep_start: bool = True,
        defer: bool = False,
    ) -> None:
        self.defer = defer
        self.trainer, self.loss, self.patience, self.on_epoch = trainer, loss, patience, on_epoch
        self._first = 0 if keep_start else 1
        self.losses: list[float] = []
        self._best: dict[str, torch.Tensor] = {}
        self._start: dict[str, torch.Tensor] = {}  # until it is evaluated

    @property
    def epoch(self) -> int:
        """The best epoch so far; 0 is the start."""
        return min(
            range(min(self._first, len(self.losses) - 1), len(self.losses)), key=self.losses.__getitem__
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.losses, self._start = [], {}
        if (carried := self.carried(args, state)) is None:
            if self.defer:
                self._start = _copies(self.trainer.model)
            else:
                self._evaluate()
            return
        self._go_on_from(carried)
        if not self.defer:
            self._evaluate_start()
        if not self._start and len(self.losses) - 1 < math.floor(
            state.epoch
        ):  # saved at an epoch's last step, before its end
            self._evaluate()
        if self._out_of_patience():
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A run that resumes where patience had ended it takes one more step, which does not count.
        if not self._out_of_patience():
            self._evaluate()
        if self._out_of_patience():
            control.should_training_stop = True

    def state_dict(self) -> dict[str, Any]:
        kinds = {"best": self._best, "start": self._start}
        kept = {f"{kind}.{name}": w for kind, weights in kinds.items() for name, w in weights.items()}
        return {"losses": self.losses, **kept}

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        try:
            self.losses = [float(loss) for loss in state["losses"]]
            kept = {
                name: state[f"{'best' if self.losses else 'start'}.{name}"]
                .to(parameter.device)
                .view_as(parameter)
                for name, parameter in _trainable(self.trainer.model).items()
            }
            self._best, self._start = (kept, {}) if self.losses else ({}, kept)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise misfit(self, error) from None
        for epoch, loss in enumerate(self.losses):
            if self.on_epoch is not None:
                self.on_epoch(epoch, loss)

    def _out_of_patience(self) -> bool:
        return bool(self.losses) and len(self.losses) - 1 - self.epoch >= self.patience

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for name, parameter in _trainable(self.trainer.model).items():
            parameter.copy_(self._best[name])

    @torch.no_grad()
    def _evaluate_start(self) -> None:
        """What was put off: the weights of now step aside for it."""
        if not self._start:
            return
        parameters, now = _trainable(self.trainer.model), _copies(self.trainer.model)
        start, self._start = self._start, {}
        for weights in (start, now):
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
            if weights is start:
                self._evaluate()

    def _evaluate(self) -> None:
        self._evaluate_start()
        value = self.loss(self.trainer.model)
        if not math.isfinite(value):
            raise GraspError(
                f"the dev loss at step {self.trainer.state.global_step} is {value}; lower the learning rate"
            )
        self.losses.append(value)
        if self.epoch == len(self.losses) - 1:
            self._best = _copies(self.trainer.model)
        self.trainer.log({"dev_loss": value})
        if self.on_epoch is not None:
            self.on_epoch(len(self.losses) - 1, value)


class AverageOfEpochs(CarriesState):
    """Ends with the mean of the weights after each epoch, the start excluded (Schmidt et al., 2023).

    It looks at no dev row. A mask must stay the same throughout: the mean of the factors is then under it.

    Args:
        of: "factors" averages A and B. "delta" averages delta W = B A, of a rank up to the epochs' times r,
            and takes the nearest of rank r (by singular values); for adapters without a mask.

    Attributes:
        epochs: How many were averaged.
    """

    def __init__(self, of: Literal["factors", "delta"] = "factors") -> None:
        self.of, self.epochs = of, 0
        self._seen: dict[str, list[torch.Tensor]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self.epochs, self._seen = 0, {}
        if (carried := self.carried(args, state)) is None:
            return
        try:
            for _epoch in range(int(carried["epochs"])):
                self._add(
                    {n: carried[f"{self.epochs}.{n}"].to(w.device) for n, w in _trainable(model).items()}
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise misfit(self, error) from None
        if self.epochs < math.floor(state.epoch):  # saved at an epoch's last step, before its end
            self._add(_copies(model))

    def state_dict(self) -> dict[str, Any]:
        seen = {f"{i}.{name}": w for name, several in self._seen.items() for i, w in enumerate(several)}
        return {"epochs": self.epochs, **seen}

    @torch.no_grad()
    def on_epoch_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self._add(_copies(model))

    def _add(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.epochs += 1
        for name, weight in weights.items():
            self._seen.setdefault(name, []).append(weight)

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        means = {name: torch.stack(seen).double().mean(0) for name, seen in self._seen.items()}
        if self.of == "delta":
            for name in means:
                other = re.sub(r"\.lora_(embedding_)?A\b", r".lora_\1B", name)
                if other != name:
                    means[name], means[other] = _nearest(self._seen[name], self._seen[other])
        for name, parameter in _trainable(model).items():
            parameter.copy_(means[name])


def _nearest(a: list[torch.Tensor], b: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in) and B (out, r), their product the nearest to the mean of the B A, their norms in the ratio of
    the last ones.
    """
    left, right = torch.cat(b, 1).double() / len(b), torch.cat(a, 0).double().T  # (out, n r), (in, n r)
    (q_left, r_left), (q_right, r_right) = torch.linalg.qr(left), torch.linalg.qr(right)
    u, values, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    rank = a[0].shape[0]
    root = values[:rank].sqrt()
    ratio = (b[-1].double().norm() / a[-1].double().norm()).sqrt() if b[-1].any() and a[-1].any() else 1.0
    return (q_right @ v[:rank].T * root / ratio).T, q_left @ u[:, :rank] * root * ratio


def _copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in _trainable(model).items()}


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
