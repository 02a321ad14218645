"""What a run's methods scored so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean

from grasp_lora.errors import GraspError
from grasp_lora.workspace.rows import Row

__all__ = ["Scored", "scored_in"]


@dataclass(frozen=True, slots=True)
class Scored:
    """A method's evaluations on the task's own test rows: means over draws and seeds, in nats."""

    method: str
    p: float | None
    dev_loss: float | None
    test_loss: float
    rows: int
    candidate: bool
    """Whether one could deploy it: no control of another method, no point of a sweep."""


def scored_in(root: Path, stages: Mapping[str, float]) -> tuple[Scored, ...]:
    """By method, in the order in which they were first evaluated.

    Args:
        stages: Finished ones, and when they were finished: none changes afterwards, so each is read once.
    """
    by_method: dict[str, list[_Evaluated]] = {}
    for name, at in stages.items():
        if (row := _evaluated(root / name, at)) is not None:
            by_method.setdefault(row.method, []).append(row)
    return tuple(_together(method, rows) for method, rows in by_method.items())


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """What is shown of a row, without its texts."""

    method: str
    p: float | None
    dev_loss: float | None
    test_loss: float
    candidate: bool


@lru_cache(maxsize=4096)
def _evaluated(folder: Path, at: float) -> _Evaluated | None:
    if not (folder / Row.SCORES_FILE).exists():
        return None
    try:
        row = Row.read(folder)
    except GraspError:
        return None
    if row.test_set or not row.test_losses:
        return None
    return _Evaluated(row.method, row.p, row.dev_loss, row.test_loss, not (row.is_point or row.control_of))


def _together(method: str, rows: Sequence[_Evaluated]) -> Scored:
    dev = [row.dev_loss for row in rows if row.dev_loss is not None]
    return Scored(
        method=method,
        p=rows[0].p,
        dev_loss=fmean(dev) if len(dev) == len(rows) else None,
        test_loss=fmean(row.test_loss for row in rows),
        rows=len(rows),
        candidate=rows[0].candidate,
    )
