"""One frozen tree of settings, with defaults from the papers.

Unknown keys are errors. Most groups are declared beside the code that they set. Only methods read the tree:
everything below takes plain arguments. It is read from YAML by `config.loading`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from grasp_lora.control.settings import Control, MergePrune
from grasp_lora.lm.adapters import Lora
from grasp_lora.lm.backbone import DType
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.training import Training
from grasp_lora.settings import Count, FolderName, Ratio, Seed, Settings
from grasp_lora.stages.combine import Combine
from grasp_lora.stages.evaluate import Evaluation
from grasp_lora.stages.lorahub import LoraHub
from grasp_lora.stages.optuna import Optuna
from grasp_lora.tasks.task import Task

__all__ = ["Config", "MethodNames", "Part", "Side"]

_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class MethodNames:
    """The methods that a config may name: they are above it, so they come as the context of its validation.

    Attributes:
        known: Every one.
        all: What `methods: all` stands for.
        default: Those of a config that names none.
    """

    known: tuple[str, ...]
    all: tuple[str, ...]
    default: tuple[str, ...]


class Side(Settings):
    """The source or the target: its language, its adapter, how much of its data to use."""

    language: FolderName
    adapter: Path | None = None  # a trained PEFT adapter; None trains one
    train_examples: Count | None = None  # None takes all
    dev_examples: Count | None = None
    seed: Seed | None = None  # of its adapter's first weights and training; None: the run's
    training: Training = Training()


class Part(Settings):
    """A part of the experiment: its training where that differs from the top-level `training`."""

    training: Training = Training()


class Config(Settings):
    """A run: one backbone, one task, one pair of languages.

    `training` is the default of every training stage; `source.training`, `target.training`,
    `learn.training` and `final.training` need only what differs.
    """

    name: FolderName
    runs: Path = Path("runs")
    backbone: str
    revision: str | None = None
    dtype: DType = "auto"
    device: str = "auto"
    task: Task | str
    source: Side
    target: Side
    lora: Lora = Lora()
    merge: Literal["sum", "linear"] = "sum"
    training: Training = Training()
    learn: Part = Part()
    final: Part = Part()
    control: Control = Control()
    variants: Mapping[str, Control] = {}  # more GRASP runs by name: what differs from `control`
    methods: Annotated[tuple[str, ...], Field(min_length=1, validate_default=True)] = ()
    combine: Combine = Combine()
    merge_prune: MergePrune = MergePrune()
    lorahub: LoraHub = LoraHub()
    optuna: Optuna = Optuna()
    grid: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    evaluation: Evaluation = Evaluation(generate=4)
    max_length: Count = _LIMITS.max_length  # tokens of prompt and answer together
    max_new_tokens: Count | None = None  # None: the task's own
    token_budget: Count = _LIMITS.token_budget  # tokens of one evaluation batch
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
    def _known_methods(cls, value: Any, info: ValidationInfo) -> Any:
        names: MethodNames | None = info.context
        if names is None:
            return value
        if value == ():
            return names.default
        if value == "all":
            return names.all
        if not isinstance(value, list | tuple):
            raise ValueError("methods is 'all' or a list of names")
        if unknown := [name for name in value if name not in names.known]:
            raise ValueError(
                f"no method is called {unknown[0]!r}; there are {', '.join(sorted(names.known))}"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> "Config":
        known = () if info.context is None else info.context.known
        if self.source.language == self.target.language:
            raise ValueError(f"source and target are both '{self.source.language}'")
        for name in self.variants:
            if name in known or not re.fullmatch(r"\w[\w.]*", name):
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
    def folder(self) -> Path:
        """The run directory."""
        return self.runs / self.name

    def dump(self) -> str:
        """The resolved tree as YAML; reading it back gives the same config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
