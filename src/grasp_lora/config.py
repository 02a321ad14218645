"""One frozen tree of settings, with defaults from the papers.

Unknown keys are errors. Only stages read this tree; everything below takes plain arguments. It is read from
YAML by `config_file`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from grasp_lora.metrics.bertscore import BERTSCORE
from grasp_lora.metrics.scoring import METRICS
from grasp_lora.tasks.task import Task

__all__ = [
    "ALL",
    "BertScore",
    "Combination",
    "Combine",
    "Config",
    "Control",
    "Evaluation",
    "Lora",
    "LoraHub",
    "MergePrune",
    "Method",
    "Optuna",
    "Side",
    "Stage",
    "Training",
]

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def _folder_name(value: str) -> str:
    if not re.fullmatch(r"[\w-][\w.-]*", value):
        raise ValueError("it names a folder: letters, digits, _, - and . may be in it, and no . at its start")
    return value


FolderName = Annotated[str, AfterValidator(_folder_name)]


Combination = Literal[
    "linear", "svd", "ties", "ties_svd", "dare_ties", "dare_ties_svd", "dare_linear", "dare_linear_svd",
    "magnitude_prune", "magnitude_prune_svd",
]  # fmt: skip
Single = Literal[
    "zero_shot",
    "lora_source",
    "lora_target",
    "merge_untrained",
    "merge",
    "merge_prune",
    "grid",
    "random",
    "optuna",
    "lorahub",
    "grasp",
    "rank_check",
]
Method = Single | Combination
_METHODS = {*get_args(Single), *get_args(Combination)}
ALL: tuple[Method, ...] = (
    "zero_shot", "lora_source", "lora_target", "ties", "dare_ties", "dare_linear", "magnitude_prune",
    "linear", "svd", "lorahub", "merge_untrained", "merge", "merge_prune", "grid", "random", "optuna",
    "grasp", "rank_check",
)  # fmt: skip


class _Node(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Lora(_Node):
    """Shape of new adapters (GRASP Table 7)."""

    r: Count = 8
    alpha: float = 32
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    target_modules: tuple[str, ...] | Literal["all-linear"] = ("q_proj", "v_proj")


class Training(_Node):
    """How one training stage runs (GRASP Table 7; the decay is the authors' code's)."""

    epochs: Count = 10
    max_steps: Count | None = None  # where given, it decides instead of epochs
    batch_size: Count = 1
    gradient_accumulation: Count = 1
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    lr_decay_per_epoch: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    weight_decay: NotNegative = 0.0
    max_grad_norm: NotNegative = 1.0  # 0 does not clip
    patience: Count = 3  # epochs without a better dev loss


class Side(_Node):
    """The source or the target: its language, its adapter, how much of its data to use."""

    language: FolderName
    adapter: Path | None = None  # a trained PEFT adapter; None trains one
    train_examples: Count | None = None  # None takes all
    dev_examples: Count | None = None
    seed: Seed | None = None  # of its adapter's first weights and training; None: the run's
    training: Training = Training()


class Stage(_Node):
    """A training stage's settings where they differ from the top-level `training`."""

    training: Training = Training()


class Control(_Node):
    """The controller (GRASP Table 7; Secs. 3.2 and 3.3)."""

    p_min: Ratio = 0.10
    p_max: Ratio = 0.80
    p_init: Ratio = 0.40
    every: Count = 10  # K
    candidates: Count = 3  # C
    micro_dev: Count = 16  # m
    eta: NotNegative = 0.05
    beta: NotNegative = 0.05
    tau: NotNegative = 0.01
    d_max: NotNegative = 0.10
    unit: Literal["adapter", "tensor"] = "adapter"
    importance_refresh: Literal["round", "start"] = "round"
    select: Literal["best", "last", "policy_mean"] = "best"

    @model_validator(mode="after")
    def _ordered(self) -> "Control":
        if not self.p_min <= self.p_init <= self.p_max:
            raise ValueError(f"need p_min <= p_init <= p_max, got {self.p_min}, {self.p_init}, {self.p_max}")
        return self

    def policy(self) -> dict[str, Any]:
        """The policy's part."""
        names = {"p_min", "p_max", "p_init", "candidates", "eta", "beta", "tau", "d_max"}
        return self.model_dump(include=names)


class Combine(_Node):
    """How PEFT's combinations weigh and prune the adapters."""

    density: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5  # share of entries that ties, dare, ... keep
    weights: dict[str, float] | None = None  # by language; None: 1 each
    rank: Count | None = None  # of the svd forms; None: the largest adapter's


class MergePrune(_Node):
    """Adaptive LoRA merge with pruning (Miyano & Arase, Sec. 3.2, App. C)."""

    importance: Literal["input", "gradient"] = "input"
    unit: Literal["parameter", "module"] = "parameter"
    value: Literal["zero", "init"] = "zero"
    threshold: Annotated[float, Field(gt=0.0)] | None = None  # of the mean importance: for modules, no grid
    rescore_every: Count = 1  # optimizer steps; 1 is the paper's schedule
    rescore: Literal["validation", "train_batch"] = "validation"  # where X comes from; the paper: validation

    @model_validator(mode="after")
    def _threshold_of_modules(self) -> "MergePrune":
        if (self.threshold is None) == (self.unit == "module"):
            raise ValueError("merge_prune.threshold goes with unit: module, and module needs one")
        return self


class LoraHub(_Node):
    """The search for one weight per adapter (Huang et al., 2024)."""

    budget: Count = 40  # evaluations of the objective
    bound: Annotated[float, Field(gt=0.0)] = 1.5  # weights lie in [-bound, bound]
    penalty: NotNegative = 0.05  # of the mean absolute weight
    exact: bool = False  # sum w B A instead of (sum w B)(sum w A)
    adapters: dict[str, Path] = {}  # to choose from, beside source and target


class Optuna(_Node):
    """What a user would take instead of a grid: TPE over the ratio, and a pruner of hopeless trials."""

    trials: Count | None = None  # None: with the final run as many trainings as the grid has
    pruner: Literal["median", "asha"] = "median"  # sees dev after each epoch, so it needs two or more
    p_min: Ratio = 0.1  # the grid's range
    p_max: Ratio = 0.8

    @model_validator(mode="after")
    def _ordered(self) -> "Optuna":
        if self.p_min > self.p_max:
            raise ValueError(f"need p_min <= p_max, got {self.p_min}, {self.p_max}")
        return self


class BertScore(_Node):
    """The encoder of BERTScore: a hub name, a folder or packaged:multilingual-e5-small (layer 9)."""

    encoder: str
    layer: Count


class Evaluation(_Node):
    """What is measured on the target's test set."""

    test_examples: Count | None = None  # None takes all
    generate: Annotated[int, Field(ge=0)] | None  # test examples to answer, 4; None is all, so with metrics
    metrics: tuple[str, ...] | Literal["task"] = ()  # of the answers: grasp_lora.metrics.scoring.METRICS
    bertscore: BertScore | None = None  # the encoder that the three bertscore metrics need
    deployment: bool = False  # size, load time and speed of each method's adapter, merged and unmerged

    @model_validator(mode="before")
    @classmethod
    def _answers_to_score(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "generate" not in data:
            return {**data, "generate": None if data.get("metrics") else 4}
        return data

    @model_validator(mode="after")
    def _known_metrics(self) -> "Evaluation":
        named = () if self.metrics == "task" else self.metrics
        if unknown := [name for name in named if name not in METRICS]:
            raise ValueError(f"unknown metrics {unknown}; known are {', '.join(METRICS)}")
        if self.metrics and self.generate == 0:
            raise ValueError("metrics need answers: raise evaluation.generate, or set it to null for all")
        if self.bertscore is None and any(name in BERTSCORE for name in named):
            raise ValueError("BERTScore needs an encoder: set evaluation.bertscore.encoder and .layer")
        return self


class Config(_Node):
    """A run: one backbone, one task, one pair of languages.

    `training` is the default of every training stage; `source.training`, `target.training`,
    `learn.training` and `final.training` need only what differs.
    """

    name: FolderName
    runs: Path = Path("runs")
    backbone: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    task: Task | str
    source: Side
    target: Side
    lora: Lora = Lora()
    merge: Literal["sum", "linear"] = "sum"
    training: Training = Training()
    learn: Stage = Stage()
    final: Stage = Stage()
    control: Control = Control()
    variants: dict[str, Control] = {}  # more GRASP runs by name: what differs from `control`
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = (
        "lora_target",
        "merge_untrained",
        "merge",
        "grasp",
    )
    combine: Combine = Combine()
    merge_prune: MergePrune = MergePrune()
    lorahub: LoraHub = LoraHub()
    optuna: Optuna = Optuna()
    grid: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    evaluation: Evaluation = Evaluation(generate=4)
    max_length: Count = 2200  # tokens of prompt and answer together
    max_new_tokens: Count | None = None  # None: the task's own
    token_budget: Count = 4096  # tokens of one evaluation batch
    seed: Seed = 42  # adapters, the learning run and the policy
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (42,)  # the final run is repeated with each

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        """Fill each stage's `training` from the top-level one, and each variant from `control`."""
        if not isinstance(data, Mapping) or not isinstance(data.get("training", {}), Mapping):
            return data
        data = dict(data)
        for key in ("source", "target", "learn", "final"):
            part = data.get(key, {})
            if isinstance(part, Mapping) and isinstance(part.get("training", {}), Mapping):
                data[key] = {**part, "training": {**data.get("training", {}), **part.get("training", {})}}
        control = data.get("control", {})
        if isinstance(data.get("variants"), Mapping) and isinstance(control, Mapping):
            data["variants"] = {
                name: {**control, **part} if isinstance(part, Mapping) else part
                for name, part in data["variants"].items()
            }
        return data

    @field_validator("methods", mode="before")
    @classmethod
    def _known_methods(cls, value: Any) -> Any:
        if value == "all":
            return ALL
        if not isinstance(value, list | tuple):
            raise ValueError("methods is 'all' or a list of names")
        if unknown := [name for name in value if name not in _METHODS]:
            raise ValueError(f"no method is called {unknown[0]!r}; there are {', '.join(sorted(_METHODS))}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.source.language == self.target.language:
            raise ValueError(f"source and target are both '{self.source.language}'")
        for name in self.variants:
            if name in _METHODS or not re.fullmatch(r"\w[\w.]*", name):
                raise ValueError(f"a variant cannot be called '{name}': use letters, digits, _ and no method")
        for key in ("seeds", "methods"):
            listed = getattr(self, key)
            if twice := sorted({str(one) for one in listed if listed.count(one) > 1}):
                raise ValueError(f"{key} names {', '.join(twice)} twice")
        if len({f"{p:.2f}" for p in self.grid}) < len(self.grid):
            raise ValueError(f"grid has two ratios that are the same to two decimals: {list(self.grid)}")
        sides = {self.source.language, self.target.language}
        if self.combine.weights is not None and set(self.combine.weights) != sides:
            raise ValueError(f"combine.weights needs a weight for each of {sorted(sides)}")
        return self

    @property
    def controlled(self) -> tuple[str, ...]:
        """The methods and variants that learn a ratio on the micro-dev set."""
        found = (name for name in self.methods if name in ("grasp", "random", "rank_check"))
        return (*found, *self.variants)

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.runs / self.name

    def dump(self) -> str:
        """The resolved tree as YAML; reading it back gives the same config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
