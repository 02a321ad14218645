"""The settings of what prunes: the controller (GRASP Table 7), and pruning at every step (ALM)."""

import inspect
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grasp_lora.control.controller import EVERY
from grasp_lora.control.input_importance import Rescore
from grasp_lora.control.noise import MARGIN
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.control.selection import SelectionRule
from grasp_lora.control.units import (
    ImportanceFrom,
    ImportanceRefresh,
    InputsOf,
    Pool,
    ResetUnit,
    ResetValue,
    UnitKind,
)
from grasp_lora.settings import Count, NotNegative, Ratio, Settings

__all__ = ["Control", "MergePrune"]

_POLICY = {name: parameter.default for name, parameter in inspect.signature(RatioPolicy).parameters.items()}


class Control(Settings):
    """The controller (GRASP Table 7; Secs. 3.2 and 3.3). The policy's part is what `RatioPolicy` takes."""

    p_min: Ratio = _POLICY["p_min"]
    p_max: Ratio = _POLICY["p_max"]
    p_init: Ratio = _POLICY["p_init"]
    every: Count = EVERY  # K
    candidates: Count = _POLICY["candidates"]  # C
    micro_dev: Count = 16  # m
    eta: NotNegative = _POLICY["eta"]
    beta: NotNegative = _POLICY["beta"]
    tau: NotNegative = _POLICY["tau"]
    d_max: NotNegative = _POLICY["d_max"]
    unit: UnitKind = "adapter"
    importance_refresh: ImportanceRefresh = "round"
    select: SelectionRule = "best"
    margin: NotNegative = MARGIN  # nats: a smaller difference is none
    reset_moments: bool = True  # of the optimizer, where a commit changes the mask (Sec. 3.3)

    @model_validator(mode="after")
    def _ordered(self) -> "Control":
        if not self.p_min <= self.p_init <= self.p_max:
            raise ValueError(f"need p_min <= p_init <= p_max, got {self.p_min}, {self.p_init}, {self.p_max}")
        return self

    @property
    def policy(self) -> dict[str, Any]:
        """The policy's part."""
        return self.model_dump(include=set(_POLICY))


class MergePrune(Settings):
    """Adaptive LoRA merge with pruning (Miyano & Arase, Sec. 3.2, App. C)."""

    importance: ImportanceFrom = "input"
    unit: ResetUnit = "parameter"
    value: ResetValue = "zero"
    inputs: InputsOf = "projection"  # X; layer: without the norm's learned weight, as the published code
    pool: Pool = "entries"  # of a module's gradient scores; factors: mean of A + mean of B, as published
    thresholds: tuple[Annotated[float, Field(gt=0.0)], ...] = ()  # of modules' importance, the best on dev
    rescore_every: Count = 1  # optimizer steps; 1 is the paper's schedule
    rescore: Rescore = "validation"  # where X comes from; the paper: validation

    @model_validator(mode="after")
    def _threshold_of_modules(self) -> "MergePrune":
        if bool(self.thresholds) != (self.unit == "module"):
            raise ValueError("merge_prune.thresholds go with unit: module, and module needs one or more")
        if self.pool == "factors" and (self.unit, self.importance) != ("module", "gradient"):
            raise ValueError("merge_prune.pool is of modules' scores from gradients")
        if len({f"{t:g}" for t in self.thresholds}) < len(self.thresholds):
            raise ValueError("merge_prune.thresholds has two that are the same to six digits")
        return self

    @property
    def searched(self) -> Literal["p", "threshold"]:
        """What dev chooses, as `MergePruneCallback` names it."""
        return "threshold" if self.unit == "module" else "p"
