"""What a run's methods scored so far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.ratios import PruneRatio
from grasp_lora.workspace.rows import Row

__all__ = ["Scored", "scored_in"]


@dataclass(frozen=True, slots=True)
class Scored:
    """A method's evaluations on the task's own test rows: means over draws and seeds, in nats."""

    method: str
    p: PruneRatio | None
    dev_loss: float | None
    test_loss: float
    rows: int
    candidate: bool
    """Whether one could deploy it: no control of another method, no point of a sweep."""

    @property
    def order(self) -> tuple[bool, float]:
        """The best on dev first; then what diverged, and at last what has no dev loss, by test loss."""
        loss = self.test_loss if self.dev_loss is None else self.dev_loss
        return self.dev_loss is None, math.inf if math.isnan(loss) else loss


def scored_in(root: Path, stages: Mapping[str, float]) -> tuple[tuple[Scored, ...], int]:
    """By method, in the order in which they were first evaluated; and how many evaluations cannot be read.

    Args:
        stages: Finished ones, and when they were finished: none changes afterwards, so each is read once.
    """
    found = [_evaluated(root / name, at) for name, at in stages.items()]
    by_method: dict[str, list[_Evaluated]] = {}
    for row in chain.from_iterable(rows for rows in found if rows is not None):
        by_method.setdefault(row.method, []).append(row)
    return tuple(_together(method, rows) for method, rows in by_method.items()), found.count(None)


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """What is shown of a row, without its texts."""

    method: str
    p: PruneRatio | None
    dev_loss: float | None
    test_loss: float
    candidate: bool


@lru_cache(maxsize=4096)
def _evaluated(folder: Path, at: float) -> tuple[_Evaluated, ...] | None:
    """What a stage scored on the own test rows, be it nothing; None where it cannot be read."""
    if not (folder / Row.SCORES_FILE).exists():
        return ()
    try:
        row = Row.read(folder)
    except (GraspError, OSError, RecursionError):
        return None
    if row.test_set or not row.test_losses:
        return ()
    candidate = not (row.is_point or row.control_of)
    return (_Evaluated(row.method, row.p, row.dev_loss, row.test_loss, candidate),)


def _together(method: str, rows: Sequence[_Evaluated]) -> Scored:
    dev = [row.dev_loss for row in rows if row.dev_loss is not None]
    return Scored(
        method=method,
        p=rows[0].p,
        dev_loss=_mean(dev) if len(dev) == len(rows) else None,
        test_loss=_mean([row.test_loss for row in rows]),
        rows=len(rows),
        candidate=rows[0].candidate,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)  # `fmean` raises an error where the sum is not finite
