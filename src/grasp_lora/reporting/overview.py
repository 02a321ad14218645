"""What lies in a folder of runs: of each its state, what it found, and how large it is."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from grasp_lora.errors import GraspError
from grasp_lora.ratios import PerAdapter, PruneRatio
from grasp_lora.reporting.plain import ago, harmless, ratio, size
from grasp_lora.reporting.progress import Progress, has_lost_config, is_run, progress_of
from grasp_lora.reporting.scored import Scored

__all__ = ["Overview", "overviews", "table_of"]

STATES = {
    "done": "green", "running": "bold green", "stopped": "yellow", "no config": "bold red", "no run": "dim",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Overview:
    """One folder.

    Attributes:
        state: As of `Progress`, or "no run"; "no config" where a run has lost that.
        methods: How many are evaluated, and how many will be.
        p: p*, of the run's own learning run.
        best: The method with the lowest dev loss.
        bytes: Of all files, links not followed.
        changed: When anything in it last was, in seconds since the epoch.
        unreadable: As of `Progress`.
    """

    folder: Path
    state: str
    methods: tuple[int, int]
    p: PruneRatio | None
    best: Scored | None
    bytes: int
    changed: float
    unreadable: int = 0

    @property
    def words(self) -> str:
        """Its state where people read."""
        done, of = self.methods
        words = ["unfinished" if self.state == "stopped" else self.state]
        if self.state in ("running", "stopped") and of:
            words.append(f"{done} of {of} methods")
        if self.unreadable:
            words.append(f"{self.unreadable} unreadable")
        return ", ".join(words)

    def to_json(self) -> Mapping[str, Any]:
        """For programs."""
        best = self.best and {
            "method": self.best.method,
            "p": _known(self.best.p),
            "dev_loss": _known(self.best.dev_loss),
            "test_loss": _known(self.best.test_loss),
        }
        return {
            "name": self.folder.name,
            "folder": str(self.folder),
            "state": self.state,
            "methods_evaluated": self.methods[0],
            "methods": self.methods[1],
            "unreadable": self.unreadable,
            "p": _known(self.p),
            "best": best,
            "bytes": self.bytes,
            "changed": datetime.fromtimestamp(self.changed, UTC).isoformat(timespec="seconds"),
        }


def _known(number: PruneRatio | None) -> PruneRatio | None:
    """None, too, for what JSON has no number for: a training that diverged."""
    known = isinstance(number, PerAdapter) or (number is not None and math.isfinite(number))
    return number if known else None


def overviews(folder: Path, now: float | None = None) -> list[Overview]:
    """Of each folder in `folder`, by name; or of itself, where it is a run.

    Raises:
        GraspError: There is no such folder.
    """
    if is_run(folder):
        return [_overview(folder, now)]
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    except OSError as error:
        raise GraspError(
            f"{folder} cannot be read ({error.strerror}): give the folder that has the runs"
        ) from None
    return [_overview(path, now) for path in inside]


def _overview(folder: Path, now: float | None) -> Overview:
    found: Progress | None = progress_of(folder, now) if is_run(folder) else None
    sizes = list(_files(folder))
    total, changed = sum(count for count, _ in sizes), max((at for _, at in sizes), default=0.0)
    if found is None:
        state = "no config" if has_lost_config(folder) else "no run"
        return Overview(folder, state, (0, 0), None, None, total, changed)
    p = None if found.learning is None else found.learning.p
    last = max(changed, found.changed)
    return Overview(folder, found.state, found.methods, p, found.best, total, last, found.unreadable)


def _files(folder: Path) -> Iterator[tuple[int, float]]:
    """Bytes and time of the folder and of each file below it; what vanishes meanwhile is not counted."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            yield 0, place.lstat().st_mtime
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        found = entry.stat(follow_symlinks=False)
                        yield found.st_size, found.st_mtime
        except OSError:
            continue


def table_of(found: list[Overview], now: float) -> Table:
    """The overviews, a line each."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for name in ("p*", "best on dev", "dev", "test", "size", "changed"):
        right = name != "best on dev"
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    for one in found:
        losses = ("", "", "")
        if one.best is not None:
            losses = (harmless(one.best.method), f"{one.best.dev_loss:.4f}", f"{one.best.test_loss:.4f}")
        table.add_row(
            Text(harmless(one.folder.name)),
            Text(one.words, "bold red" if one.unreadable else STATES[one.state]),
            ratio(one.p),
            *map(Text, losses),
            size(one.bytes),
            ago(now - one.changed),
        )
    return table
