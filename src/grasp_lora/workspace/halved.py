"""What the stages of halving have in common: its settings, a candidate's training, and what it takes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from grasp_lora.control.halving import Halving, HalvingResult, KeepRule, rungs_of
from grasp_lora.control.noise import MARGIN
from grasp_lora.cost import Cost, measure
from grasp_lora.errors import GraspError
from grasp_lora.lm.backbone import Backbone
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.logs import CHECKPOINTS_FOLDER
from grasp_lora.lm.pausing import PauseAt, Paused
from grasp_lora.lm.training import Training
from grasp_lora.ranks import world
from grasp_lora.ratios import PruneRatio, Ratios, shown_ratio
from grasp_lora.settings import Count, NotNegative, Settings
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.passes import passes_of_training
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.training import fine_tune

__all__ = [
    "HalvingSettings",
    "check_halving",
    "halving_of",
    "passes_between",
    "passes_to",
    "place_of",
    "rungs_of_rows",
    "train_to",
    "warnings_of",
]

Part = Annotated[float, Field(gt=0.0, lt=1.0)]


class HalvingSettings(Settings):
    """Successive halving over fixed masks, paired."""

    candidates: Ratios = ()
    """Ratios to begin with; none: 0 and the grid's."""
    rungs: Annotated[tuple[Part, ...], Field(min_length=1)] = (0.125, 0.25)
    """After which parts of the final training the candidates are compared."""
    rows: tuple[Count | None, ...] = (8, None)
    """How many held-out rows judge at each rung at most, the first ones of micro-dev, or in cross_validate
    of each fold's; null: all."""
    dev: bool = False
    """Whether dev's rows judge as well, after those of micro-dev; in cross_validate each fold's judge."""
    factor: Annotated[int, Field(ge=2)] = 3
    """One candidate of so many goes on at each rung; the last one leaves one."""
    keep: KeepRule = "rank"
    """Who goes on: the best by rank, or (noise) also those whom the rows cannot tell from the leader."""
    budget: NotNegative | None = None
    """With keep: noise, the most steps up to the last rung, as a share of all candidates' whole trainings."""
    margin: NotNegative = MARGIN
    """Nats: a smaller difference is none."""

    @model_validator(mode="after")
    def _rows_of_each(self) -> "HalvingSettings":
        if len(self.rows) != len(self.rungs):
            raise ValueError(f"rows has {len(self.rows)} numbers, and rungs {len(self.rungs)}")
        if sorted({*self.rungs}) != list(self.rungs):
            raise ValueError("rungs must rise")
        return self


def train_to(
    resources: Resources,
    folder: Path,
    rows: Sequence[Example],
    step: int | None,
    *,
    limits: Limits,
    **given: Any,
) -> tuple[list[float], Cost]:
    """Train to a step, or to the end, from the last checkpoint where there is one.

    Returns:
        The rows' losses at the step, and what it took from the first step on.
    """
    pauses: list[PauseAt] = []

    def pause(backbone: Backbone) -> PauseAt:
        pauses.append(PauseAt(resources.loss(rows, backbone, limits).per_example, step))
        return pauses[-1]

    with measure() as cost, suppress(Paused):
        fine_tune(resources, folder, limits=limits, pause=None if step is None else pause, **given)
    return [] if step is None else pauses[-1].seen[step], cost


def place_of(folder: Path, p: PruneRatio, fold: int | None = None) -> Path:
    """Where a candidate is trained."""
    name = f"p{shown_ratio(p)}"
    return folder / CHECKPOINTS_FOLDER / (name if fold is None else f"{name}-fold{fold}")


def rungs_of_rows(how: HalvingSettings, steps: int, judges: int) -> dict[int, int]:
    """Steps of the rungs of a training of so many, and how many rows judge at each: those that there are.

    Raises:
        GraspError: It is too short for any.
    """
    asked = zip(rungs_of(steps, how.rungs), how.rows, strict=True)
    return {step: min(rows or judges, judges) for step, rows in asked}  # of two at one step the later counts


def check_halving(candidates: Sequence[PruneRatio], how: HalvingSettings, steps: int, judges: int) -> None:
    """What would stop it later.

    Raises:
        GraspError: No such candidates, a training without room for a comparison, or several processes.
    """
    if world() > 1:
        raise GraspError("halving trains one candidate in one process: start it without a launcher")
    halving_of(candidates, how, steps, rungs_of_rows(how, steps, judges), [])


def halving_of(
    candidates: Sequence[PruneRatio],
    how: HalvingSettings,
    steps: int,
    rungs: Mapping[int, int],
    groups: Sequence[str],
) -> Halving:
    """As the settings say; its budget in steps.

    Raises:
        GraspError: No such candidates.
    """
    budget = None if how.budget is None else round(how.budget * steps * len(candidates))
    return Halving(
        candidates,
        tuple(rungs),
        factor=how.factor,
        keep=how.keep,
        budget=budget,
        margin=how.margin,
        groups=groups,
    )


def passes_to(
    rungs: Mapping[int, int],
    candidates: Sequence[PruneRatio],
    how: HalvingSettings,
    train: Sequence[Example],
    dev: Sequence[Example],
    training: Training,
) -> int:
    """Example passes of all candidates to the last rung, at most: where noise keeps everyone."""
    alive, before, total = len(candidates), 0, 0
    for step, rows in rungs.items():
        total += alive * (passes_between(before, step, train, dev, training) + rows)
        before = step
        alive = alive if how.keep == "noise" else -(-alive // how.factor)
    return total


def passes_between(
    before: int, step: int, train: Sequence[Example], dev: Sequence[Example], training: Training
) -> int:
    """Example passes of one training from one step to another, its looks at dev among them."""
    part = training.model_copy(update={"max_steps": step - before})
    each = training.steps_per_epoch(len(train))
    epochs = step // each - before // each
    looks = epochs + (0 < epochs == step // each)  # the start's with the first epoch's
    return passes_of_training(train=train, dev=None, training=part) + looks * len(dev)


def warnings_of(found: HalvingResult) -> list[str]:
    """What a summary says of it."""
    return [] if (doubt := found.doubt) is None else [f"halving: {doubt}"]
