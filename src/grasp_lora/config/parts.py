"""Parts of a run's settings that belong to no code of their own: sides, final run, searches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from grasp_lora.lm.training import Training
from grasp_lora.ratios import Ratios
from grasp_lora.settings import Count, FolderName, Seed, Settings
from grasp_lora.tasks.task import Split, Task

__all__ = ["CrossValidate", "Final", "Part", "Side", "Source", "Sweep", "Target", "Tune"]


class Side(Settings):
    """A language and its adapter: what trains it, how much of the data to use."""

    language: FolderName
    """One of the task's languages."""
    name: FolderName | None = None
    """Of its adapter, in folders and prune units; null: the language."""
    adapter: Literal["none"] | Path | None = None
    """A PEFT adapter, as a folder or OWNER/NAME[@REVISION]; null trains one. none: the target adds none."""
    train_examples: Count | None = None
    """Training rows, the first ones; null takes all."""
    dev_examples: Count | None = None
    """Dev rows, the first ones; null takes all."""
    seed: Seed | None = None
    """Of its adapter's first weights and training; null: the run's."""
    training: Training = Training()
    """Of its adapter, where that differs from the top-level training."""

    @property
    def label(self) -> str:
        """What its adapter is called."""
        return self.name or self.language


class Source(Side):
    """One of the adapters that the target's is merged with."""

    task: Task | str | None = None
    """Whose rows train it; null: the run's."""


class Target(Side):
    """What the methods are tuned for and judged by."""

    draws: Count = 1
    """Samples of the training rows, from train and pool; each is a whole experiment. 1: the split's own."""
    tests: Mapping[FolderName, Path] = {}
    """More test sets of the task, by name, such as a dialect's."""

    @field_validator("tests")
    @classmethod
    def _no_split(cls, tests: Mapping[str, Path]) -> Mapping[str, Path]:
        if taken := sorted(tests.keys() & set(get_args(Split))):
            raise ValueError(f"{taken[0]!r} is a split of every task; call the test set otherwise")
        return tests


class Part(Settings):
    """A part of the experiment: its training where that differs from the top-level `training`."""

    training: Training = Training()
    """Of this part, where that differs from the top-level training."""


class Final(Part):
    """The final run at a ratio (GRASP Sec. 3.4)."""

    pruning: Literal["fixed", "every_step"] = "fixed"
    """One mask for the whole run, or, as merge_prune does, pruned anew after every step."""
    refit: bool = False
    """Train each method once more on all labelled rows, with the epochs that were chosen."""


class CrossValidate(Settings):
    """The method `cross_validate`; a number alone is its folds."""

    folds: Annotated[int, Field(ge=2)] = 5
    """Over all labelled rows, which are parted twice."""
    search: Literal["grid", "halving"] = "grid"
    """grid trains every ratio to its end in each fold; halving drops ratios on the way, all folds judging."""

    @model_validator(mode="before")
    @classmethod
    def _number_alone(cls, data: Any) -> Any:
        return {"folds": data} if isinstance(data, int) else data


class Sweep(Settings):
    """Ratios that the method `sweep` trains, answers and scores, with every seed."""

    ratios: Ratios = ()
    """Different to four decimals; [0, 1] is one ratio for each adapter that is merged, in their order."""


class Tune(Settings):
    """A search on dev that every training on the target's rows makes anew, at each ratio."""

    learning_rate: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    """Rates to try, the best on dev is kept; none: training's own, without a search."""

    @field_validator("learning_rate")
    @classmethod
    def _apart(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{rate:g}" for rate in rates}) < len(rates):
            raise ValueError("it has two rates that are the same to six digits")
        return rates
