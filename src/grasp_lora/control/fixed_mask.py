"""A fixed mask in a `transformers.Trainer`: the final run."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.pruning import entries_to_prune
from grasp_lora.control.units import Pruning, UnitKind, adapter_parameters
from grasp_lora.errors import GraspError
from grasp_lora.lm.checkpoints import CarriesState, misfit
from grasp_lora.lm.sharded import average_gradients
from grasp_lora.merging.parts import PartsOrFolder, find_parts
from grasp_lora.ratios import PerAdapter, PruneRatio, per_adapter, prunes

__all__ = ["FixedMaskCallback"]


class FixedMaskCallback(CarriesState):
    """Keeps one mask through a training run: the final run of Sec. 3.4.

    The mask is built once at `p`, from the adapter's own magnitudes before the first step.

    Args:
        p: Prune ratio in [0, 1]; or one for each of the parts, in their order, which must not all be 1.
        parts, unit: As for `GraspCallback`.
        after_steps: Optimizer steps to train before the mask is built; a new adapter, whose magnitudes say
            nothing, needs some.

    Raises:
        GraspError: The ratio is out of its range. And as training begins: the adapter was not trained yet, or
            training ends before the mask would be built, or training resumes from a checkpoint without its
            state.
    """

    prunes = True

    def __init__(
        self,
        p: float | Sequence[float],
        *,
        parts: PartsOrFolder = None,
        unit: UnitKind = "adapter",
        after_steps: int = 0,
    ) -> None:
        self.p: PruneRatio = per_adapter(p) if isinstance(p, Sequence) else p
        if not isinstance(self.p, PerAdapter):
            entries_to_prune(self.p, 0)  # checks it
        if after_steps < 0:
            raise GraspError(f"after_steps must be at least 0, got {after_steps}")
        self.after_steps = after_steps
        self._pruning = Pruning(find_parts(parts), unit)
        self.masked: MaskedAdapter | None = None
        self.importance: Mapping[str, float] = {}
        """Each unit's, as the mask was built."""
        self.norms: Mapping[str, float] = {}
        """The share of each unit's squared norm that the mask took."""
        self._built = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        parameters = adapter_parameters(model)
        average_gradients(model, parameters.values())
        self.masked = MaskedAdapter(parameters, self._pruning)
        if self.after_steps and self.after_steps >= state.max_steps:
            raise GraspError(
                f"the mask would be built after {self.after_steps} steps, and training takes "
                f"{state.max_steps}: lower after_steps"
            )
        self._built = False
        if (carried := self.carried(args, state)) is not None:
            self._go_on_from(carried)
        elif not self.after_steps:
            self._build()

    def settings(self) -> dict[str, Any]:
        return {"p": self.p, "after_steps": self.after_steps, **self._pruning.settings()}

    def state_dict(self) -> dict[str, Any]:
        assert self.masked is not None
        said = {"built": self._built, "importance": dict(self.importance), "norms": dict(self.norms)}
        return {**said, **self.masked.state_dict()}

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        assert self.masked is not None
        try:
            self._built = bool(state["built"])
            self.importance, self.norms = dict(state["importance"]), dict(state["norms"])
            self.masked.go_on_from(state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise misfit(self, error) from None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.masked is not None
        if not self._built and state.global_step >= self.after_steps:
            self._build()
        self.masked.zero_pruned()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.masked is not None
        self.masked.close()

    def _build(self) -> None:
        assert self.masked is not None
        if prunes(self.p) and self.masked.nothing_to_prune_by():
            raise GraspError(
                "the adapter does nothing yet (its B, or its A, is all zeros), so its magnitudes do not "
                "say what to prune: load a trained adapter, or give after_steps, the steps to train it before"
            )
        self._built = True
        self.importance = self.masked.importances()
        self.masked.commit(self.p)  # nothing comes back, so no moments need clearing
        self.norms = self.masked.pruned_norms()  # of dense values that were not trained apart yet
