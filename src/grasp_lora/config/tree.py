"""One frozen tree of settings, with defaults from the papers.

Unknown keys are errors. Most groups are declared beside the code that they set. Only methods read the tree:
everything below takes plain arguments. It is read from YAML by `config.loading`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from grasp_lora.control.settings import Control, MergePrune
from grasp_lora.lm.adapters import Lora
from grasp_lora.lm.backbone import DType
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.training import Training
from grasp_lora.metrics.scoring import METRICS
from grasp_lora.settings import Count, FolderName, Ratio, Seed, Settings
from grasp_lora.stages.combine import Combine
from grasp_lora.stages.evaluate import Evaluation
from grasp_lora.stages.lorahub import LoraHub
from grasp_lora.stages.optuna import Optuna
from grasp_lora.tasks.task import Split, Task

__all__ = ["Config", "MethodNames", "Part", "Side", "Source", "Target"]

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
    """A language and its adapter: what trains it, how much of the data to use."""

    language: FolderName
    name: FolderName | None = None  # of its adapter, in folders and prune units; None: the language
    # A PEFT adapter, as a folder or OWNER/NAME[@REVISION]; None trains one. none: the target adds none.
    adapter: Literal["none"] | Path | None = None
    train_examples: Count | None = None  # None takes all
    dev_examples: Count | None = None
    seed: Seed | None = None  # of its adapter's first weights and training; None: the run's
    training: Training = Training()

    @property
    def label(self) -> str:
        """What its adapter is called."""
        return self.name or self.language


class Source(Side):
    """One of the adapters that the target's is merged with."""

    task: Task | str | None = None  # whose rows train it; None: the run's


class Target(Side):
    """What the methods are tuned for and judged by."""

    # Samples of the training rows, from train and pool; each is a whole experiment. 1: the split's own.
    draws: Count = 1
    tests: Mapping[FolderName, Path] = {}  # more test sets of the task by name, such as a dialect's

    @field_validator("tests")
    @classmethod
    def _no_split(cls, tests: Mapping[str, Path]) -> Mapping[str, Path]:
        if taken := sorted(tests.keys() & set(get_args(Split))):
            raise ValueError(f"{taken[0]!r} is a split of every task; call the test set otherwise")
        return tests


class Part(Settings):
    """A part of the experiment: its training where that differs from the top-level `training`."""

    training: Training = Training()


class Final(Part):
    """The final run at a ratio (GRASP Sec. 3.4)."""

    pruning: Literal["fixed", "every_step"] = "fixed"  # every_step: as merge_prune does, at that ratio
    refit: bool = False  # each method once more on all labelled rows, with the epochs that were chosen


def _apart(ratios: tuple[float, ...]) -> tuple[float, ...]:
    if len({f"{p:.4f}" for p in ratios}) < len(ratios):
        raise ValueError("it has two ratios that are the same to four decimals")
    return ratios


Ratios = Annotated[tuple[Ratio, ...], AfterValidator(_apart)]


class Sweep(Settings):
    """Ratios that the method `sweep` trains, answers and scores, with every seed."""

    ratios: Ratios = ()


class Tune(Settings):
    """A search on dev that every training on the target's rows makes anew, at each ratio."""

    learning_rate: tuple[Annotated[float, Field(gt=0.0)], ...] = ()  # (): training's own, no search

    @field_validator("learning_rate")
    @classmethod
    def _apart(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{rate:g}" for rate in rates}) < len(rates):
            raise ValueError("it has two rates that are the same to six digits")
        return rates


def _kind_of_source(value: Any) -> str:
    return "source[several]" if isinstance(value, list | tuple) else "source[one]"


class Config(Settings):
    """A run: one backbone, one task, one pair of languages.

    `training` is the default of every training stage; `source.training`, `target.training`,
    `learn.training` and `final.training` need only what differs. `source` may be a list: the adapters of all
    are merged with the target's.
    """

    name: FolderName
    runs: Path = Path("runs")
    backbone: str
    revision: str | None = None
    dtype: DType = "auto"
    device: str = "auto"
    task: Task | str
    source: Annotated[
        Annotated[Source, Tag("source[one]")]
        | Annotated[tuple[Source, ...], Tag("source[several]"), Field(min_length=1)],
        Discriminator(_kind_of_source),
    ]
    target: Target
    lora: Lora = Lora()
    merge: Literal["sum", "linear"] = "sum"
    training: Training = Training()
    learn: Part = Part()
    final: Final = Final()
    control: Control = Control()
    variants: Mapping[str, Control] = {}  # more GRASP runs by name: what differs from `control`
    methods: Annotated[tuple[str, ...], Field(min_length=1, validate_default=True)] = ()
    combine: Combine = Combine()
    merge_prune: MergePrune = MergePrune()
    lorahub: LoraHub = LoraHub()
    optuna: Optuna = Optuna()
    sweep: Sweep = Sweep()
    grid: Annotated[Ratios, Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    select_by: str = "loss"  # what of dev chooses among a grid's: loss, a metric, or task: its first metric
    cross_validate: Annotated[int, Field(ge=2)] = 5  # folds, over all labelled rows; parted twice
    tune: Tune = Tune()
    evaluation: Evaluation = Evaluation(generate=4)
    max_length: Count = _LIMITS.max_length  # tokens of prompt and answer together
    max_new_tokens: Count | None = None  # None: the task's own
    token_budget: Count = _LIMITS.token_budget  # tokens of one evaluation batch
    seed: Seed = 42  # adapters, the learning run and the policy
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (42,)  # the runs of `repeat`, with each
    repeat: Literal["final", "adapters"] = "final"  # adapters: these are trained anew with each seed, too

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        """Fill each stage's `training` from the top-level one, and each variant from `control`."""
        if not isinstance(data, Mapping) or not isinstance(data.get("training", {}), Mapping):
            return data
        data = dict(data)
        for key in ("source", "target", "learn", "final"):
            part = data.get(key, {})
            several = isinstance(part, list | tuple)
            inherited = [
                _with_training(one, data.get("training", {})) for one in (part if several else [part])
            ]
            data[key] = inherited if several else inherited[0]
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

    @field_validator("select_by")
    @classmethod
    def _known_choice(cls, name: str) -> str:
        if name not in (known := ("loss", "task", *METRICS)):
            raise ValueError(f"it is one of {', '.join(known)}")
        return name

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> "Config":
        known = () if info.context is None else info.context.known
        labels = [side.label for side in (*self.sources, self.target)]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two adapters are called '{twice[0]}': give one side a name")
        for side in self.sources:
            if side.adapter == "none":
                raise ValueError(f"the source '{side.label}' needs an adapter; only the target's may be none")
            if side.language == self.target.language and side.task is None and side.adapter is None:
                raise ValueError(f"source and target are both '{side.language}' of one task")
        for name in self.variants:
            if name in known or not re.fullmatch(r"\w[\w.]*", name):
                raise ValueError(f"a variant cannot be called '{name}': use letters, digits, _ and no method")
        if self.final.pruning == "every_step" and self.merge_prune.unit == "module":
            raise ValueError("final.pruning: every_step prunes at a ratio, and merge_prune.unit is module")
        for key in ("seeds", "methods"):
            listed = getattr(self, key)
            if twice := sorted({str(one) for one in listed if listed.count(one) > 1}):
                raise ValueError(f"{key} names {', '.join(twice)} twice")
        merged = set(labels[:-1] if self.target.adapter == "none" else labels)
        if self.combine.weights is not None and set(self.combine.weights) != merged:
            raise ValueError(f"combine.weights needs a weight for each of {sorted(merged)}")
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """All of them."""
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.runs / self.name

    def dump(self) -> str:
        """The resolved tree as YAML; reading it back gives the same config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _with_training(part: Any, training: Mapping[str, Any]) -> Any:
    """The part with what its own training does not name."""
    if not isinstance(part, Mapping) or not isinstance(part.get("training", {}), Mapping):
        return part
    return {**part, "training": {**training, **part.get("training", {})}}
