"""Halving inside cross-validation: all folds judge together which ratio goes on."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from grasp_lora.control.halving import HalvingResult
from grasp_lora.cost import Cost, go_on_from
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.training import Training
from grasp_lora.ratios import PruneRatio
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.folded import check_folds, mean_by_epoch
from grasp_lora.workspace.halved import (
    HalvingSettings,
    check_halving,
    halving_of,
    passes_between,
    passes_to,
    place_of,
    rungs_of_rows,
    train_to,
    warnings_of,
)
from grasp_lora.workspace.records import DevLosses, LearnedRatio
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work
from grasp_lora.workspace.training import Fixed

__all__ = ["HALVE_FOLDS"]

T = TypeVar("T")


def halve_folds(
    resources: Resources,
    folder: Path,
    *,
    candidates: Sequence[PruneRatio],
    how: HalvingSettings,
    start: Sequence[Path],
    train: Sequence[Sequence[Example]],
    dev: Sequence[Sequence[Example]],
    training: Training,
    limits: Limits,
    mask: Fixed,
    **given: Any,
) -> None:
    """Halving over several folds at once: a candidate is trained in each, and judged by what all hold out.

    The survivor's trainings go on to their end and are scored after each epoch. Leaves `HalvingResult`,
    `LearnedRatio`, and as `DevLosses` the losses by epoch, in which each held-out row counts as any other.

    Args:
        start, train, dev: Of each fold: its merged adapter, the rows it trains on, and those it holds out.
        mask: Without its ratio.
        given: The rest of `workspace.training.fine_tune`'s arguments.
    """
    rungs = rungs_of_rows(how, _shortest(training, train), max(map(len, dev)))
    groups = [one.group or one.id for one in _in_turn(dev)]  # parted anew, a row is held out again
    halving = halving_of(candidates, how, _shortest(training, train), rungs, groups)
    costs: dict[tuple[PruneRatio, int], Cost] = {}

    def losses(p: PruneRatio, step: int | None) -> list[float]:
        found = []
        for fold, held_out in enumerate(dev):
            alone = {"start": start[fold], "train": train[fold], "dev": held_out, "training": training}
            rows = [] if step is None else held_out[: rungs[step]]
            place, at = place_of(folder, p, fold), replace(mask, ratio=p)
            seen, costs[p, fold] = train_to(
                resources, place, rows, step, mask=at, limits=limits, **alone, **given
            )
            found.append(seen)
        return _in_turn(found)

    while (step := halving.next_step) is not None:
        halving.tell({p: losses(p, step) for p in halving.alive})
    found = halving.result
    losses(found.best_ratio, None)
    folds = [DevLosses.read(place_of(folder, found.best_ratio, fold)).by_epoch for fold in range(len(dev))]
    by_epoch = mean_by_epoch(folds, [*map(len, dev)])
    found.write(folder)
    LearnedRatio(found.best_ratio, rule="halving", warnings=warnings_of(found)).write(folder)
    DevLosses(by_epoch, by_epoch.index(min(by_epoch))).write(folder)
    go_on_from(Cost.together(list(costs.values())))


def _in_turn(folds: Sequence[Sequence[T]]) -> list[T]:
    """The first of each, then the second of each: so the first n of all begin the list, for any n."""
    return [one for each in zip_longest(*folds) for one in each if one is not None]


def _shortest(training: Training, train: Sequence[Sequence[Example]]) -> int:
    """Steps of the shortest of the folds' trainings: all are compared after as many."""
    return min(training.steps(len(rows)) for rows in train)


def _ready(
    resources: Resources,
    *,
    candidates: Sequence[PruneRatio],
    how: HalvingSettings,
    train: Sequence[Sequence[Example]],
    dev: Sequence[Sequence[Example]],
    training: Training,
    **_: Any,
) -> None:
    check_folds(dev)
    check_halving(candidates, how, _shortest(training, train), max(map(len, dev)))


def _passes(
    *,
    candidates: Sequence[PruneRatio],
    how: HalvingSettings,
    train: Sequence[Sequence[Example]],
    dev: Sequence[Sequence[Example]],
    training: Training,
    **given: Any,
) -> int:
    rungs, total = rungs_of_rows(how, _shortest(training, train), max(map(len, dev))), 0
    for rows, held_out in zip(train, dev, strict=True):
        own = {step: min(judges, len(held_out)) for step, judges in rungs.items()}
        total += passes_to(own, candidates, how, rows, held_out, training)
        total += passes_between(max(own), training.steps(len(rows)), rows, held_out, training)
    return total


def _about(folder: Path, *, candidates: Sequence[PruneRatio], dev: Sequence[Any], **_: Any) -> str:
    found, tried = HalvingResult.read(folder), ", ".join(f"{p:g}" for p in candidates)
    return f"p = {found.best_ratio:g} survived halving over {tried}, which {len(dev)} folds judged."


HALVE_FOLDS = Work(halve_folds, ready=_ready, passes=_passes, about=_about, resumes=True)
