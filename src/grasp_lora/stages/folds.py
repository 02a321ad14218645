"""The ratio and the number of epochs with the lowest loss on rows that folds held out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grasp_lora.ratios import PruneRatio, in_order
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.folded import check_folds, mean_by_epoch
from grasp_lora.workspace.records import DevLosses, LearnedRatio
from grasp_lora.workspace.stage import Work

__all__ = ["CHOOSE_BY_FOLDS"]


def choose_by_folds(
    resources: Any,
    folder: Path,
    *,
    trained: Mapping[PruneRatio, Sequence[Path]],
    held_out: Sequence[Sequence[Example]],
) -> None:
    """Leaves `LearnedRatio`, and as `DevLosses` the losses by epoch at that ratio.

    A held-out row counts as much as any other, in whichever fold. Of equal losses the smaller ratio wins, and
    the earlier epoch.

    Args:
        trained: Ratio -> the folders of the trainings at it, one for each fold.
        held_out: The rows that scored each fold's.
    """
    counts = [len(rows) for rows in held_out]
    by_epoch = {
        p: mean_by_epoch([DevLosses.read(one).by_epoch for one in made], counts)
        for p, made in trained.items()
    }
    best = min((p for p, _ in in_order(by_epoch)), key=lambda p: min(by_epoch[p]))
    LearnedRatio(best, dev_loss={str(p): min(losses) for p, losses in by_epoch.items()}).write(folder)
    DevLosses(by_epoch[best], by_epoch[best].index(min(by_epoch[best]))).write(folder)


def _enough_rows(resources: Any, *, held_out: Sequence[Sequence[Example]], **_: Any) -> None:
    check_folds(held_out)


CHOOSE_BY_FOLDS = Work(choose_by_folds, ready=_enough_rows)
