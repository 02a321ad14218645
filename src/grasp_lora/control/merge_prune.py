"""Adaptive LoRA merge with pruning (Miyano & Arase, 2025, Sec. 3.2, Algorithm 1, App. C): the baseline.

After every optimizer step importance is evaluated anew and the least important entries are reset; at the
next step they are trained again. Three independent choices: importance from `input` or `gradient`, unit
`parameter` or `module`, reset value `zero` or `init`. Nothing stays masked, so there are no dense values.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from grasp_lora.control.bits import take
from grasp_lora.control.importance import GradientImportance
from grasp_lora.control.input_importance import InputImportance, Rescore
from grasp_lora.control.pruning import masks_at, pruned_share, thresholds
from grasp_lora.control.units import (
    ImportanceFrom,
    InputsOf,
    Parts,
    Pool,
    PruneUnit,
    Pruning,
    ResetUnit,
    ResetValue,
    adapter_parameters,
    prune_units,
)
from grasp_lora.errors import GraspError, check_choice
from grasp_lora.lm.checkpoints import CarriesState, misfit
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.lm.sharded import average_gradients
from grasp_lora.merging.parts import PartsOrFolder, find_parts

__all__ = ["MergePruneCallback", "PrunedEpoch", "StepPruner"]


class StepPruner:
    """Resets the least important entries of an adapter's factors.

    Args:
        parameters: LoRA factors by PEFT name, from `adapter_parameters`.
        parts: For a merged adapter, which rows and columns came from which adapter. The paper compares
            within one adapter's module, never across.
        p: Ratio of entries to reset per unit, where `unit` is "parameter".
        unit: "parameter" resets the lowest entries of each factor; "module" resets an adapter's A and B at
            a site as a whole where the mean importance of their entries is under `threshold`.
        value: "zero", or "init": what the entry was at construction.
        pool: A module's score: the mean over all "entries" of A and B, or over "factors" the sum of A's mean
            and B's, as the published code takes of gradients; about twice as much where A and B are alike.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        parts: Parts | None = None,
        *,
        p: float = 0.0,
        unit: ResetUnit = "parameter",
        value: ResetValue = "zero",
        threshold: float = 0.0,
        pool: Pool = "entries",
    ) -> None:
        check_choice("pool", pool, Pool)
        check_choice("unit", unit, ResetUnit)
        check_choice("value", value, ResetValue)
        self.parameters = list(parameters.values())
        self.units = prune_units(parameters, parts)
        self.p, self.unit, self.threshold, self.pool = p, unit, threshold, pool
        self.reset = [w.detach().clone() if value == "init" else torch.zeros_like(w) for w in self.parameters]

    @torch.no_grad()
    def prune(self, importance: Sequence[Tensor]) -> list[Tensor]:
        """Reset by importance, one tensor per factor and of its shape; returns the keep masks."""
        keep = [torch.empty_like(w, dtype=torch.bool) for w in self.parameters]
        if self.unit == "parameter":
            masks_at(importance, self.units, thresholds(importance, self.units, [self.p])[0], out=keep)
        else:
            for name, score in self.scores(importance).items():
                for unit in self._modules()[name]:
                    unit.of(keep).copy_(score >= self.threshold)
        for weight, mask, value in zip(self.parameters, keep, self.reset, strict=True):
            take(weight.detach(), value, ~mask)
        return keep

    def scores(self, importance: Sequence[Tensor]) -> dict[str, Tensor]:
        """Each module's score, which the threshold is compared with; for entries, each unit's mean."""
        if self.unit == "parameter":
            return {unit.name: unit.of(importance).float().mean() for unit in self.units}
        found = {}
        for name, module in self._modules().items():
            scores = [unit.of(importance).float().reshape(-1) for unit in module]
            means = torch.stack([one.mean() for one in scores])
            found[name] = means.sum() if self.pool == "factors" else torch.cat(scores).mean()
        return found

    def _modules(self) -> dict[str, list[PruneUnit]]:
        """Units of one adapter's A and B at one site together: `SITE[ADAPTER]`."""
        modules: dict[str, list[PruneUnit]] = {}
        for unit in self.units:
            modules.setdefault(re.sub(r"\.lora_[AB]", "", unit.name), []).append(unit)
        return modules


class PrunedEpoch(NamedTuple):
    """The last step of an epoch: the share of all entries that it reset, and `StepPruner.scores`."""

    pruned_share: float
    importance: dict[str, float]


class MergePruneCallback(CarriesState):
    """Adaptive LoRA merge with pruning (Miyano & Arase, 2025): resets entries after every optimizer step.

    Args:
        p: Ratio of entries to reset per unit; for `unit="parameter"`.
        validation: The batched validation set; needed for `importance="input"` with `rescore="validation"`.
        parts: As for `GraspCallback`.
        importance: "input" or "gradient".
        unit, value, threshold: See `StepPruner`.
        rescore_every: Optimizer steps between two evaluations of the importance; 1 is the paper's.
        inputs: Which inputs X are, see `InputImportance`.
        pool: See `StepPruner`; of importance from gradients.
        rescore: Where the inputs come from, see `InputImportance`; "validation" is the paper's. With
            "train_batch" the model has hooks on it until training ends, or until a run that raised is
            followed by another or this callback is dropped.

    Attributes:
        scores: The importance that the last step pruned by, one tensor per factor.
        epochs: What the last step of each epoch saw and did.
    """

    prunes = True

    def __init__(
        self,
        p: float = 0.0,
        *,
        validation: TargetLoss | None = None,
        parts: PartsOrFolder = None,
        importance: ImportanceFrom = "input",
        unit: ResetUnit = "parameter",
        value: ResetValue = "zero",
        threshold: float = 0.0,
        rescore_every: int = 1,
        rescore: Rescore = "validation",
        inputs: InputsOf = "projection",
        pool: Pool = "entries",
    ) -> None:
        check_choice("importance", importance, ImportanceFrom)
        if importance == "input" and rescore == "validation" and validation is None:
            raise GraspError("importance from inputs needs a validation set, or rescore='train_batch'")
        self.p, self.validation, self.importance = p, validation, importance
        self.unit, self.threshold = unit, threshold
        self.rescore_every, self.rescore = rescore_every, rescore
        self._parts = find_parts(parts)
        self._inputs = inputs
        self._options: dict[str, Any] = {"p": p, "unit": unit, "value": value, "threshold": threshold}
        if importance == "gradient":  # from inputs, all entries of a module score the module's
            self._options["pool"] = pool
        self._score: InputImportance | GradientImportance | None = None
        self._pruner: StepPruner | None = None
        self.scores: list[Tensor] = []
        self.epochs: list[PrunedEpoch] = []
        self._keep: list[Tensor] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self._close()
        self.epochs = []
        parameters = adapter_parameters(model)
        average_gradients(model, parameters.values())
        self._pruner = StepPruner(parameters, self._parts, **self._options)
        if self.importance == "input":
            self._score = InputImportance(
                model,
                parameters,
                self.validation,
                self._parts,
                self.rescore,
                self._options["unit"],
                self._inputs,
            )
        else:
            self._score = GradientImportance(list(parameters.values()))
        self.scores, self._keep = [], []
        if (carried := self.carried(args, state)) is not None:
            self._go_on_from(carried, math.floor(state.epoch))

    def settings(self) -> dict[str, Any]:
        rescored = {"rescore": self.rescore, "rescore_every": self.rescore_every, "inputs": self._inputs}
        units = Pruning(self._parts).settings()["parts"]
        return {"importance": self.importance, **self._options, **rescored, "parts": units}

    def state_dict(self) -> dict[str, Any]:
        assert self._score is not None
        assert self._pruner is not None
        kinds = {"score": self.scores, "keep": self._keep, "reset": self._pruner.reset}
        tensors = {f"{kind}.{i}": t for kind, several in kinds.items() for i, t in enumerate(several)}
        return {"epochs": [epoch._asdict() for epoch in self.epochs], **tensors, **self._score.state()}

    def _go_on_from(self, state: Mapping[str, Any], epochs: int) -> None:
        assert self._score is not None
        assert self._pruner is not None
        devices = list(enumerate(w.device for w in self._pruner.parameters))
        try:
            self.scores, self._keep, self._pruner.reset = (
                [state[f"{kind}.{i}"].to(device) for i, device in devices]
                for kind in ("score", "keep", "reset")
            )
            self._score.load(state)
            self.epochs = [PrunedEpoch(**epoch) for epoch in state["epochs"]]
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise misfit(self, error) from None
        if len(self.epochs) < epochs:  # the checkpoint is of an epoch's last step, before its end
            self._end_epoch()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The gradients are still there. `global_step` counts the steps before this one.
        assert self._score is not None
        assert self._pruner is not None
        if self.importance == "gradient" or state.global_step % self.rescore_every == 0:
            self.scores = self._score()
        self._keep = self._pruner.prune(self.scores)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._end_epoch()

    def _end_epoch(self) -> None:
        assert self._pruner is not None
        scores = {name: score.item() for name, score in self._pruner.scores(self.scores).items()}
        self.epochs.append(PrunedEpoch(pruned_share(self._keep), scores))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if isinstance(self._score, InputImportance):
            self._score.close()
