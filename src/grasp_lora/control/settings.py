"""The settings of what prunes: the controller (GRASP Table 7), and pruning at every step (ALM)."""

import inspect
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grasp_lora.control.controller import EVERY
from grasp_lora.control.input_importance import Rescore
from grasp_lora.control.measured import CurveRule
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

__all__ = ["Control", "Curve", "MergePrune"]

_POLICY = {name: parameter.default for name, parameter in inspect.signature(RatioPolicy).parameters.items()}


class Control(Settings):
    """The controller (GRASP Table 7; Secs. 3.2 and 3.3). The policy's part is what `RatioPolicy` takes."""

    p_min: Ratio = _POLICY["p_min"]
    """The smallest ratio that may be drawn; 0 lets the controller learn not to prune."""
    p_max: Ratio = _POLICY["p_max"]
    """The largest ratio that may be drawn."""
    p_init: Ratio = _POLICY["p_init"]
    """The ratio of the first mask, and the policy's first mean; between p_min and p_max."""
    every: Count = EVERY
    """K: optimizer steps from one controller round to the next."""
    candidates: Count = _POLICY["candidates"]
    """C: ratios that a round draws and evaluates."""
    micro_dev: Count = 16
    """m: the held-out rows whose loss is the reward; the task's micro_dev split needs as many."""
    eta: NotNegative = _POLICY["eta"]
    """Step size of the policy's gradient."""
    beta: NotNegative = _POLICY["beta"]
    """How strongly the policy's mean is drawn to the committed ratio."""
    tau: NotNegative = _POLICY["tau"]
    """Exploration: what each round adds to the policy's standard deviation."""
    d_max: NotNegative = _POLICY["d_max"]
    """The largest change of the committed ratio in one round."""
    unit: UnitKind = "adapter"
    """Which entries compete: one adapter's own A or B at one site, or (tensor) all of a merged A or B."""
    importance_refresh: ImportanceRefresh = "round"
    """When entries are scored: anew in each round, or once at the start."""
    select: SelectionRule = "best"
    """The rule for p*: the probe of the highest reward, the last committed ratio, the policy's last mean, the
    top of a curve through all probes, or the largest ratio that is not worse than that top."""
    margin: NotNegative = MARGIN
    """Nats: a smaller difference is none; of select: sparsest, and of the warnings."""
    reset_moments: bool = True
    """Whether a commit clears the optimizer's moments where it changed the mask (Sec. 3.3)."""

    @model_validator(mode="after")
    def _ordered(self) -> "Control":
        if not self.p_min <= self.p_init <= self.p_max:
            raise ValueError(f"need p_min <= p_init <= p_max, got {self.p_min}, {self.p_init}, {self.p_max}")
        return self

    @property
    def policy(self) -> dict[str, Any]:
        """The policy's part."""
        return self.model_dump(include=set(_POLICY))


class Curve(Settings):
    """The method curve: one training under masks at ratios that are drawn evenly, of which any can be cut."""

    p_min: Ratio = 0.0
    """The smallest ratio that is drawn, and measured."""
    p_max: Ratio = 0.8
    """The largest."""
    ratios: Count = 9
    """Ratios that are measured afterwards, evenly apart, on control.micro_dev rows."""
    per_adapter: bool = False
    """Draw one for each adapter that is merged, and measure all combinations of the ratios."""
    select: CurveRule = "best"
    """Which ratio is used: that of the lowest loss, or the largest that is no worse than the smallest."""
    margin: NotNegative = MARGIN
    """Nats; a smaller difference is none."""
    adapter: Literal["final", "trained_on", "cut"] = "cut"
    """A final run of the merge at the ratio, or the curve's own adapter: cut there and trained on, or cut."""

    @model_validator(mode="after")
    def _ordered(self) -> "Curve":
        if self.p_min > self.p_max or self.p_min == 1.0:
            raise ValueError(f"need p_min <= p_max, and p_min below 1, got {self.p_min}, {self.p_max}")
        return self


class MergePrune(Settings):
    """Adaptive LoRA merge with pruning (Miyano & Arase, Sec. 3.2, App. C)."""

    importance: ImportanceFrom = "input"
    """What scores an entry: |BA| times the norm of the projection's inputs, or |w times its gradient|."""
    unit: ResetUnit = "parameter"
    """What is pruned: the lowest entries of each factor, or whole modules under a threshold."""
    value: ResetValue = "zero"
    """What a pruned entry becomes: zero, or what it was at the start."""
    inputs: InputsOf = "projection"
    """Which X: the projection's real inputs, or (layer) those without the norm's learned weight, as the
    published code takes."""
    pool: Pool = "entries"
    """A module's score from gradients: the mean of all its entries, or (factors) the mean of A plus the mean
    of B, as the published code takes."""
    thresholds: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    """With unit: module, thresholds of a module's importance; the best on dev is kept."""
    rescore_every: Count = 1
    """Optimizer steps from one scoring to the next; 1 is the paper's schedule."""
    rescore: Rescore = "validation"
    """Where X comes from: a pass over dev, as in the paper, or the training batches since the last scoring,
    which cost nothing more."""

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
