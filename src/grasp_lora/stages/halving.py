"""A ratio is found by successive halving over fixed masks, and its training is left where it stands."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grasp_lora.control.halving import HalvingResult
from grasp_lora.cost import Cost, go_on_from
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.training import Training
from grasp_lora.ratios import PruneRatio
from grasp_lora.tasks.example import Example, groups_of
from grasp_lora.workspace.halved import (
    HalvingSettings,
    check_halving,
    halving_of,
    passes_to,
    place_of,
    rungs_of_rows,
    train_to,
    warnings_of,
)
from grasp_lora.workspace.records import SURVIVOR_FOLDER, LearnedRatio
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work
from grasp_lora.workspace.training import Fixed

__all__ = ["HALVE"]


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
    rungs = rungs_of_rows(how, steps, len(judges))
    halving = halving_of(candidates, how, steps, rungs, groups_of(judges))
    costs: dict[PruneRatio, Cost] = {}

    def losses(p: PruneRatio, step: int) -> list[float]:
        alone = {"train": train, "dev": dev, "training": training, "limits": limits, **given}
        at = replace(mask, ratio=p)
        found, costs[p] = train_to(
            resources, place_of(folder, p), judges[: rungs[step]], step, mask=at, **alone
        )
        return found

    while (step := halving.next_step) is not None:
        halving.tell({p: losses(p, step) for p in halving.alive})
    found = halving.result
    found.write(folder)
    LearnedRatio(found.best_ratio, rule="halving", warnings=warnings_of(found)).write(folder)
    if (survivor := place_of(folder, found.best_ratio)).exists():
        shutil.rmtree(folder / SURVIVOR_FOLDER, ignore_errors=True)
        survivor.rename(folder / SURVIVOR_FOLDER)
    go_on_from(Cost.together([cost for p, cost in costs.items() if p != found.best_ratio]))


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
    check_halving(candidates, how, training.steps(len(train)), len(micro_dev))


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
    judges = len(micro_dev) + len(dev or () if how.dev else ())
    rungs = rungs_of_rows(how, training.steps(len(train)), judges)
    return passes_to(rungs, candidates, how, train, dev or (), training)


def _about(folder: Path, *, candidates: Sequence[PruneRatio], **_: Any) -> str:
    found = HalvingResult.read(folder)
    times, tried = len(found.rungs), ", ".join(f"{p:g}" for p in candidates)
    return f"p = {found.best_ratio:g} survived halving over {tried}, which were compared {times} times."


HALVE = Work(halve, ready=_ready, passes=_passes, about=_about, resumes=True)
