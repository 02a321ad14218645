"""One training that teaches every ratio: dense values under a mask whose ratio is drawn anew at each step.

For a plain PyTorch loop; `RatioCurveCallback` does the same in a Trainer. No paper has it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grasp_lora.control.draws import StratifiedRatios, ratios_between
from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.measured import MeasuredCurve, Point
from grasp_lora.control.noise import MARGIN
from grasp_lora.control.probing import Prober
from grasp_lora.control.units import Parts, Pruning, UnitKind, adapter_parameters
from grasp_lora.errors import GraspError
from grasp_lora.lm.checkpoints import CannotGoOn, check_settings, plain
from grasp_lora.lm.sharded import average_gradients
from grasp_lora.ratios import PruneRatio, as_ratio, prunes

__all__ = ["Loss", "RatioCurve", "Ratios"]

Loss = Callable[[nn.Module], float | Tensor]
"""Of a model in eval mode, to be low: one number, or those of the examples that it is the mean of,
(examples,).
"""
Ratios = int | Sequence[float | Sequence[float]]
"""So many, evenly from p_min to p_max, or these."""


class _StepMasks(MaskedAdapter):
    """Masks that are in force for the passes of one step, and not for the optimizer.

    Dense values lie aside while a mask is in force, and come back as the same bits.
    """

    _stepping = False

    @torch.no_grad()
    def begin(self, p: PruneRatio) -> None:
        """Until `lift` the model has what the mask at p keeps, and so have the gradients."""
        self._update_dense()
        self._masks = self._masks_at(p)
        self._write_live(self._masks)
        self._stepping = True

    @torch.no_grad()
    def lift(self) -> None:
        """The dense values are the model's again."""
        if self._stepping:
            torch._foreach_copy_([*self.parameters], self._dense)
            self._stepping = False
        for mask in self._masks.blocks:
            mask.fill_(True)


class RatioCurve:
    """Trains the dense values of a LoRA adapter so that they can be cut at any ratio.

    Each optimizer step has a ratio of its own: its passes see the adapter under the mask at that ratio, by
    the magnitudes of this moment, and its gradients are zero where that prunes. The optimizer's step is on
    the dense values, so AdamW's momentum still moves an entry in a step whose mask takes it.

    What comes out is one adapter, and its loss under masks at several ratios. That is not what finished
    training at each ratio gives: a ratio that is found so has a final run of its own.

    Args:
        model: A PEFT model; its trainable LoRA factors are pruned.
        loss: Called with the model in eval mode, without gradients; see `Loss`, and
            `grasp_lora.lm.loss.TargetLoss.per_example`. In a distributed run every rank calls it, and the
            mean over the ranks counts.
        p_min, p_max: The ratios that are drawn.
        ratios: Those that are measured: how many, evenly from p_min to p_max, or which.
        per_adapter: Draw a ratio for each of the merged adapters, and measure all combinations.
        parts: For a merged adapter, which rows and columns came from which adapter (`read_parts`).
        unit: See `Pruning`.
        margin, groups: See `MeasuredCurve`.
        seed: Of the draws; ranks need the same.
        state: What `state_dict` gave, to go on there, with the weights of that moment.

    Attributes:
        ratio: That of the last step; None before.
        steps: How many began.

    Raises:
        GraspError: No such range or ratios, `per_adapter` of an adapter without parts, or a state that does
            not fit.

    Examples:
        >>> curve = RatioCurve(model, loss.per_example)  # doctest: +SKIP
        >>> for batch in loader:  # doctest: +SKIP
        ...     with curve.step():  # all passes of one optimizer step
        ...         model(**batch).loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> curve.close()  # doctest: +SKIP
        >>> curve.cut(curve.measure().free.p)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        p_min: float = 0.0,
        p_max: float = 0.8,
        ratios: Ratios = 9,
        per_adapter: bool = False,
        parts: Parts | None = None,
        unit: UnitKind = "adapter",
        margin: float = MARGIN,
        groups: Sequence[str] = (),
        seed: int = 42,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._pruning = Pruning(parts, unit)
        parameters = adapter_parameters(model)
        average_gradients(model, parameters.values())
        self.masked = _StepMasks(parameters, self._pruning)
        if per_adapter and len(self.masked.adapters) < 2:
            raise GraspError("per_adapter is of a merged adapter: give parts, and unit='adapter'")
        adapters = len(self.masked.adapters) if per_adapter else 0
        self._draws = StratifiedRatios(p_min, p_max, adapters, seed=seed)
        self.ratios = _asked(ratios, p_min, p_max, adapters)
        self.margin, self.groups, self._seed = margin, tuple(groups), seed
        self._prober = Prober(model, self.masked, loss, of="loss")
        self.ratio: PruneRatio | None = None
        self.steps = 0
        if state is not None:
            self._go_on_from(state)

    @contextmanager
    def step(self) -> Iterator[PruneRatio]:
        """Around all forward and backward passes of one optimizer step: a ratio is drawn, and given."""
        p = self.before_step()
        try:
            yield p
        finally:
            self.before_optimizer_step()

    def before_step(self) -> PruneRatio:
        """Draw a ratio and put its mask in force; returns it. `step` does this and its counterpart.

        Raises:
            GraspError: The adapter was cut.
        """
        if prunes(self.masked.p):
            raise GraspError(f"the adapter was cut at p = {self.masked.p:g}: what is cut is not trained so")
        self.ratio = self._draws.draw()
        self.steps += 1
        self.masked.begin(self.ratio)
        return self.ratio

    def before_optimizer_step(self) -> None:
        """The dense values are the model's again, before the optimizer takes its step on them."""
        self.masked.lift()

    def measure(self) -> MeasuredCurve:
        """The loss under a mask at each of the ratios, of the dense values as they are.

        Raises:
            GraspError: A loss is not a finite number.
        """
        self._rest()
        seen = zip(self.ratios, self._prober.at(self.ratios), strict=True)
        points = tuple(Point(p, one.by_example or (one.mean,)) for p, one in seen)
        by_example = len(points[0].losses) == len(self.groups)
        return MeasuredCurve(points, self.margin, self.groups if by_example else ())

    def cut(self, p: float | Sequence[float]) -> None:
        """Prune the adapter at a ratio: a number, or one for each merged adapter. Another cut is from the
        dense values, too.

        Raises:
            GraspError: The ratio is none.
        """
        self._rest()
        self.masked.commit(_ratio(p))

    def close(self) -> None:
        """Training ends: the model has the dense values, and gradients are left alone from now on."""
        self._rest()
        self.masked.close()

    def _rest(self) -> None:
        """Between two steps, whatever was left of the last one."""
        if not prunes(self.masked.p):
            self.masked.lift()

    def settings(self) -> dict[str, Any]:
        """What a training that goes on must have in common with the one that was saved, for JSON."""
        draws = self._draws
        drawn = {"p_min": draws.p_min, "p_max": draws.p_max, "adapters": draws.adapters, "seed": self._seed}
        return {**drawn, "ratios": list(self.ratios), **self._pruning.settings()}

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on but the weights and the optimizer's state, between two steps."""
        return {"settings": self.settings(), "steps": self.steps, "draws": self._draws.state_dict()}

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        check_settings(state.get("settings"), self.settings(), "the curve's state")
        try:
            self.steps = int(state["steps"])
            self._draws.load_state_dict(state["draws"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CannotGoOn(
                f"the curve's state does not fit this training ({plain(error)}): train from the start"
            ) from None


def _ratio(p: float | Sequence[float]) -> PruneRatio:
    return as_ratio(tuple(p) if isinstance(p, Sequence) else p)


def _asked(ratios: Ratios, p_min: float, p_max: float, adapters: int) -> tuple[PruneRatio, ...]:
    if isinstance(ratios, int):
        return tuple(ratios_between(p_min, p_max, ratios, adapters))
    found = tuple(_ratio(p) for p in ratios)
    if not found or len(set(found)) < len(found):
        raise GraspError(f"ratios is how many to look at, or which, each once, got {list(ratios)}")
    return found
