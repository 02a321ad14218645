"""A ratio is found by successive halving over fixed masks, and its training is left where it stands."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from grasp_lora.control.halving import Halving, HalvingResult, KeepRule, rungs_of
from grasp_lora.control.noise import MARGIN
from grasp_lora.cost import Cost, go_on_from, measure
from grasp_lora.errors import GraspError
from grasp_lora.lm.backbone import Backbone
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.logs import CHECKPOINTS_FOLDER
from grasp_lora.lm.pausing import PauseAt, Paused
from grasp_lora.lm.training import Training
from grasp_lora.ranks import world
from grasp_lora.ratios import PruneRatio, Ratios, shown_ratio
from grasp_lora.settings import Count, NotNegative, Settings
from grasp_lora.tasks.example import Example, groups_of
from grasp_lora.workspace.passes import passes_of_training
from grasp_lora.workspace.records import SURVIVOR_FOLDER, LearnedRatio
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work
from grasp_lora.workspace.training import Fixed, fine_tune

__all__ = ["HALVE", "HalvingSettings"]

Part = Annotated[float, Field(gt=0.0, lt=1.0)]


class HalvingSettings(Settings):
    """Successive halving over fixed masks, paired."""

    candidates: Ratios = ()
    """Ratios to begin with; none: 0 and the grid's."""
    rungs: Annotated[tuple[Part, ...], Field(min_length=1)] = (0.125, 0.25)
    """After which parts of the final training the candidates are compared."""
    rows: tuple[Count | None, ...] = (8, None)
    """How many held-out rows judge at each rung at most, the first ones of micro-dev; null: all."""
    dev: bool = False
    """Whether dev's rows judge as well, after those of micro-dev."""
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


def halve(
    resources: Resources,
    folder: Path,
    *,
    candidates: Sequence[PruneRatio],
    how: HalvingSettings,
    train: Sequence[Example],
    dev: Sequence[Example] | None,
    micro_dev: Sequence[Example],
    training: Training,
    limits: Limits,
    mask: Fixed,
    **given: Any,
) -> None:
    """Train candidates to the rungs, compare, and drop; leaves `HalvingResult` and `LearnedRatio`.

    The survivor's checkpoint and logs stay in a folder of their own, from which its training goes on to its
    end; what it took so far is counted there. A process that was ended left checkpoints of all candidates:
    each goes on from its own.

    Args:
        mask: Without its ratio.
        given: The rest of `workspace.training.fine_tune`'s arguments.
    """
    steps = training.steps(len(train))
    judges = [*micro_dev, *(dev or () if how.dev else ())]
    rungs = _rungs(how, steps, len(judges))
    halving = _halving(candidates, how, steps, rungs, judges)
    costs: dict[PruneRatio, Cost] = {}

    def losses(p: PruneRatio, step: int) -> list[float]:
        rows = judges[: rungs[step]]
        pauses: list[PauseAt] = []

        def pause(backbone: Backbone) -> PauseAt:
            pauses.append(PauseAt(resources.loss(rows, backbone, limits).per_example, step))
            return pauses[-1]

        alone = {"train": train, "dev": dev, "training": training, "limits": limits, **given}
        with measure() as cost, suppress(Paused):
            fine_tune(resources, _of(folder, p), mask=replace(mask, ratio=p), pause=pause, **alone)
        costs[p] = cost
        return pauses[-1].seen[step]

    while (step := halving.next_step) is not None:
        halving.tell({p: losses(p, step) for p in halving.alive})
    found = halving.result
    found.write(folder)
    LearnedRatio(found.best_ratio, rule="halving", warnings=_warnings(found)).write(folder)
    if (survivor := _of(folder, found.best_ratio)).exists():
        shutil.rmtree(folder / SURVIVOR_FOLDER, ignore_errors=True)
        survivor.rename(folder / SURVIVOR_FOLDER)
    go_on_from(Cost.together([cost for p, cost in costs.items() if p != found.best_ratio]))


def _of(folder: Path, p: PruneRatio) -> Path:
    """Where a candidate is trained."""
    return folder / CHECKPOINTS_FOLDER / f"p{shown_ratio(p)}"


def _rungs(how: HalvingSettings, steps: int, judges: int) -> dict[int, int]:
    """Steps of the rungs of a training of so many, and how many rows judge at each: those that there are.

    Raises:
        GraspError: It is too short for any.
    """
    asked = zip(rungs_of(steps, how.rungs), how.rows, strict=True)
    return {step: min(rows or judges, judges) for step, rows in asked}  # of two at one step the later counts


def _halving(
    candidates: Sequence[PruneRatio],
    how: HalvingSettings,
    steps: int,
    rungs: Mapping[int, int],
    judges: Sequence[Example],
) -> Halving:
    budget = None if how.budget is None else round(how.budget * steps * len(candidates))
    return Halving(
        candidates,
        tuple(rungs),
        factor=how.factor,
        keep=how.keep,
        budget=budget,
        margin=how.margin,
        groups=groups_of(judges),
    )


def _warnings(found: HalvingResult) -> list[str]:
    return [] if (doubt := found.doubt) is None else [f"halving: {doubt}"]


def _ready(
    resources: Resources,
    *,
    candidates: Sequence[PruneRatio],
    how: HalvingSettings,
    train: Sequence[Example],
    micro_dev: Sequence[Example],
    dev: Sequence[Example] | None,
    training: Training,
    **_: Any,
) -> None:
    if world() > 1:
        raise GraspError("halving trains one candidate in one process: start it without a launcher")
    steps = training.steps(len(train))
    _halving(candidates, how, steps, _rungs(how, steps, len(micro_dev)), [])


def _passes(
    *,
    candidates: Sequence[PruneRatio],
    how: HalvingSettings,
    train: Sequence[Example],
    micro_dev: Sequence[Example],
    dev: Sequence[Example] | None,
    training: Training,
    **given: Any,
) -> int:
    """At most: where noise keeps everyone."""
    steps = training.steps(len(train))
    judges = len(micro_dev) + len(dev or () if how.dev else ())
    alive, before, total = len(candidates), 0, 0
    for step, rows in _rungs(how, steps, judges).items():
        part = training.model_copy(update={"max_steps": step - before})
        each = training.steps_per_epoch(len(train))
        epochs = step // each - before // each
        looks = (epochs + (0 < epochs == step // each)) * len(dev or ())  # the start's with the first epoch's
        total += alive * (passes_of_training(train=train, dev=None, training=part) + looks + rows)
        before = step
        alive = alive if how.keep == "noise" else -(-alive // how.factor)
    return total


def _about(folder: Path, *, candidates: Sequence[PruneRatio], **_: Any) -> str:
    found = HalvingResult.read(folder)
    times, tried = len(found.rungs), ", ".join(f"{p:g}" for p in candidates)
    return f"p = {found.best_ratio:g} survived halving over {tried}, which were compared {times} times."


HALVE = Work(halve, ready=_ready, passes=_passes, about=_about, resumes=True)
