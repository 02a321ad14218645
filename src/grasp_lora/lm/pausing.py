"""A training that stops at a step to be looked at, and may go on from there later, to the same bits."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from grasp_lora.lm.checkpoints import CarriesState, misfit
from grasp_lora.lm.loss import evaluation_mode

__all__ = ["PauseAt", "Paused"]


class Paused(Exception):
    """Training has stopped at the step that it was to stop at, with a checkpoint.

    Attributes:
        seen: What was noted there, (examples,).
    """

    def __init__(self, seen: list[float]) -> None:
        super().__init__()
        self.seen = seen


class PauseAt(CarriesState):
    """After a step looks at the model, has a checkpoint written, and stops training there.

    Training raises `Paused`, so that nothing is done that belongs to its end. One that ends before the step,
    out of patience, is looked at then. Add it last; a training that goes on from the checkpoint needs it,
    too, with another step or none.

    Args:
        look: What to note of the model in eval mode, without gradients: (examples,).
        step: Optimizer steps; None never stops.
    """

    def __init__(self, look: Callable[[nn.Module], Tensor], step: int | None) -> None:
        self.look, self.step = look, step
        self.seen: dict[int, list[float]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seen = {}
        if (carried := self.carried(args, state)) is not None:
            try:
                self.seen = {int(step): list(map(float, one)) for step, one in carried["seen"].items()}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise misfit(self, error) from None
        if self.step in self.seen:  # it was ended between the checkpoint and whoever asked
            raise Paused(self.seen[self.step])

    def state_dict(self) -> dict[str, Any]:
        return {"seen": {str(step): one for step, one in self.seen.items()}}

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        # What follows the last step of an epoch, such as its evaluation, belongs to the checkpoint.
        if not float(state.epoch).is_integer():
            self._look(state, control, model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self._look(state, control, model)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        super().on_save(args, state, control, **given)
        if state.global_step == self.step and self.step in self.seen:
            raise Paused(self.seen[self.step])

    def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        if self.step is not None and self.step not in self.seen:  # patience ended it before: so it stays
            self.seen[self.step] = self._noted(model)

    def _look(self, state: Any, control: Any, model: nn.Module) -> None:
        if (step := state.global_step) == self.step and step not in self.seen:
            self.seen[step] = self._noted(model)
            control.should_save = True

    def _noted(self, model: nn.Module) -> list[float]:
        with evaluation_mode(model):
            noted: list[float] = self.look(model).tolist()
        return noted
