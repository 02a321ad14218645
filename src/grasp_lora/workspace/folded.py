"""What the stages of folds have in common."""

from collections.abc import Sequence
from typing import Any

from grasp_lora.errors import GraspError

__all__ = ["check_folds", "mean_by_epoch"]


def mean_by_epoch(losses: Sequence[Sequence[float]], counts: Sequence[int]) -> list[float]:
    """(folds, epochs) to (epochs,), where each of the rows that folds held out counts as any other."""
    columns = zip(*losses, strict=True)
    return [sum(map(float.__mul__, column, map(float, counts))) / sum(counts) for column in columns]


def check_folds(held_out: Sequence[Sequence[Any]]) -> None:
    """Each fold must hold something out.

    Raises:
        GraspError: There are more folds than rows, or groups of rows.
    """
    if not all(held_out):
        some = sum(map(bool, held_out))
        raise GraspError(f"{len(held_out) - some} of its folds hold nothing out: set cross_validate to fewer")
