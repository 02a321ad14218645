"""One training that teaches every ratio, in a `transformers.Trainer`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import Trainer

from grasp_lora.control.curve import RatioCurve, Ratios
from grasp_lora.control.evaluated import evaluation_loss, rows_in
from grasp_lora.control.examples import Row, as_examples, check_alone, loss_of
from grasp_lora.control.measured import MeasuredCurve, Point
from grasp_lora.control.noise import MARGIN
from grasp_lora.control.units import UnitKind
from grasp_lora.errors import GraspError
from grasp_lora.lm.chat import PromptFormat
from grasp_lora.lm.checkpoints import CarriesState, misfit
from grasp_lora.lm.encoding import Limits
from grasp_lora.merging.parts import PartsOrFolder, find_parts
from grasp_lora.ratios import as_ratio
from grasp_lora.tasks.example import examples_digest, groups_of

__all__ = ["RatioCurveCallback"]


class RatioCurveCallback(CarriesState):
    """Trains a Trainer's adapter so that it can be cut at any ratio, and measures what each ratio costs.

    See `RatioCurve`. Works with any `transformers.Trainer` subclass, TRL's `SFTTrainer` included, with
    gradient accumulation (one mask for each optimizer step) and under a data-parallel launcher. Between two
    steps the model has the dense values, and so have checkpoints, from which training goes on as if it had
    never ended.

    Args:
        trainer: The one it is added to.
        examples: The held-out rows whose loss is measured, in the forms that `GraspCallback` takes; None: the
            Trainer's eval_dataset.
        ratios, p_min, p_max, per_adapter, unit, margin, seed: See `RatioCurve`.
        parts: As for `GraspCallback`.
        every_epoch: Measure after each epoch, too, and log the losses.
        max_length, max_new_tokens, token_budget, prompt_format: As for `GraspCallback`.

    Attributes:
        epochs: What was measured after each epoch, where it was asked for.

    Raises:
        GraspError: No examples, an unusable row, or parts that are not there. And as training begins: another
            callback that prunes, no trainable LoRA adapter, or a checkpoint without its state.

    Examples:
        >>> curve = RatioCurveCallback(trainer, held_out)  # doctest: +SKIP
        >>> trainer.add_callback(curve)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> curve.cut(curve.result.free.p)  # doctest: +SKIP
    """

    prunes = True

    def __init__(
        self,
        trainer: Trainer,
        examples: Sequence[Row] | None = None,
        *,
        ratios: Ratios = 9,
        p_min: float = 0.0,
        p_max: float = 0.8,
        per_adapter: bool = False,
        parts: PartsOrFolder = None,
        unit: UnitKind = "adapter",
        margin: float = MARGIN,
        seed: int = 42,
        every_epoch: bool = False,
        max_length: int = Limits.max_length,
        max_new_tokens: int | None = Limits.max_new_tokens,
        token_budget: int = Limits.token_budget,
        prompt_format: PromptFormat = Limits.prompt_format,
    ) -> None:
        self.trainer, self.every_epoch, self._format = trainer, every_epoch, prompt_format
        found = as_examples("held-out", examples or [])
        if examples is None:
            self._loss = evaluation_loss(trainer, "give RatioCurveCallback held-out rows")
            self._examples = rows_in(self._loss)
        elif found:
            limits = Limits(max_length, max_new_tokens, token_budget, prompt_format)
            self._loss = loss_of(trainer, "held-out", found, limits)
            self._examples = examples_digest(found)
        else:
            raise GraspError("examples has no rows")
        self._options: dict[str, Any] = {
            "ratios": ratios,
            "p_min": p_min,
            "p_max": p_max,
            "per_adapter": per_adapter,
            "parts": find_parts(parts),
            "unit": unit,
            "margin": margin,
            "groups": groups_of(found),
            "seed": seed,
        }
        self.curve: RatioCurve | None = None
        self.epochs: list[MeasuredCurve] = []
        self._result: MeasuredCurve | None = None

    @property
    def result(self) -> MeasuredCurve:
        """What was measured as training ended."""
        if self._result is None:
            raise GraspError("no training has ended: call trainer.train() first")
        return self._result

    def cut(self, p: float | Sequence[float]) -> None:
        """Prune the adapter, once training has ended; see `RatioCurve.cut`."""
        if self._result is None or self.curve is None:
            raise GraspError("no training has ended: call trainer.train() first")
        self.curve.cut(p)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        check_alone(self, self.trainer)
        if self.curve is not None and not state.global_step:  # of a training that ended amid a step
            self.curve.close()
        elif self.curve is not None:  # the weights are the checkpoint's, which nothing may write over
            self.curve.masked.close()
        self._result, self.epochs = None, []
        carried = self.carried(args, state)
        self.curve = RatioCurve(
            model, self._loss.per_example, state=None if carried is None else carried, **self._options
        )
        if carried is not None:
            self._go_on_from(carried, math.floor(state.epoch))

    def settings(self) -> dict[str, Any]:
        chat = {} if self._format == "plain" else {"prompt_format": self._format}
        return {"examples": self._examples, "every_epoch": self.every_epoch, **chat}

    def state_dict(self) -> dict[str, Any]:
        assert self.curve is not None
        epochs = [[[point.p, list(point.losses)] for point in one.points] for one in self.epochs]
        return {**self.curve.state_dict(), "epochs": epochs}

    def _go_on_from(self, state: Mapping[str, Any], epochs: int) -> None:
        assert self.curve is not None
        margin, groups = self.curve.margin, self.curve.groups
        try:
            self.epochs = [
                MeasuredCurve(
                    tuple(Point(as_ratio(p), tuple(map(float, seen))) for p, seen in one), margin, groups
                )
                for one in state["epochs"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise misfit(self, error) from None
        if len(self.epochs) < epochs:  # saved at an epoch's last step, before its end
            self._end_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.curve is not None
        self.curve.before_step()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.curve is not None
        self.curve.before_optimizer_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = control.should_log
        self._end_epoch()
        control.should_log = due  # logging the curve took it for the log of the loss that is due now

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.curve is not None
        self.curve.close()
        self._result = self.curve.measure()

    def _end_epoch(self) -> None:
        assert self.curve is not None
        if self.every_epoch:
            self.epochs.append(self.curve.measure())
            self.trainer.log({f"curve/{point.p:g}": point.mean for point in self.epochs[-1].points})
