"""One property for all kinds: bad input is refused in one message, and nothing outside changes."""

import os
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, Phase, given, settings
from tests.hostile.inputs import Content, Files, Input, Link, inputs
from tests.hostile.kinds import MADE, Kind
from tests.hostile.watching import TooSlow, limited, snapshot, watched

from grasp_lora.errors import GraspError

__all__ = ["Place", "Tally", "property_of"]

QUIET = 86_400  # seconds since files were last changed, so that what is unfinished looks left behind


@dataclass
class Tally:
    """What became of the inputs of a kind."""

    inputs: int = 0
    mutated: int = 0
    accepted: int = 0
    refused: int = 0
    escaped: Counter[str] = field(default_factory=Counter)
    """What is no GraspError, by where it was raised."""
    outside: Counter[str] = field(default_factory=Counter)
    """What was changed or called outside."""
    slowest: float = 0.0

    @property
    def faults(self) -> list[str]:
        return [*self.escaped, *self.outside]


class Place:
    """A folder of its own: valid sets of files to change, what is made of them, and what must stay.

    Args:
        root: An empty folder.
        run: That of a small finished run; it is copied.
    """

    def __init__(self, root: Path, run: Path, kind: Kind) -> None:
        self.root, self.kind = root.resolve(), kind
        shutil.copytree(run, self.root / "run")
        self.valid = kind.valid(self.root / "run")
        self.kept = self.root / "outside"
        self.kept.mkdir()
        (self.kept / "kept.txt").write_text("nobody's business")
        (self.kept / "rounds.jsonl").write_text("{}\n")
        (self.root / "here").mkdir()  # the working directory
        self.inside = self.root / "inside"
        for number, files in enumerate(self.valid):
            self._fill(number, files)
            kind.read(self.inside / str(number))  # and what is loaded on demand is loaded
            shutil.rmtree(self.inside / MADE, ignore_errors=True)
        self.before = snapshot(self.kept, self.root / "here")

    def _fill(self, number: int, files: Files) -> None:
        folder = self.inside / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        for name, content in files.items():
            _write(folder / name, content)
        (self.inside / MADE).mkdir(exist_ok=True)
        self._age(folder)

    def _age(self, folder: Path) -> None:
        then = time.time() - QUIET
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (then, then), follow_symlinks=False)

    def tried(self, given: Input, tally: Tally) -> None:
        """Read one input."""
        folder = self.inside / str(given.base)
        for name, content in given.changes.items():
            _write(folder / name, content)
        began = time.monotonic()
        cache = {"GRASP_CACHE": str(self.inside / MADE / "cache")}  # preparing keeps texts there
        with mock.patch.dict(os.environ, cache), watched(self.inside) as watch, chdir(self.root / "here"):
            try:
                with limited():
                    self.kind.read(folder)
                outcome = "accepted"
            except GraspError as error:
                outcome = "refused" if _is_clear(str(error)) else "not clear"
                if outcome == "not clear":
                    tally.escaped[f"a message that is not clear: {str(error)[:200]!r}"] += 1
            except (Exception, TooSlow) as error:  # noqa: BLE001  # that is what is looked for
                outcome = "escaped"
                tally.escaped[_place_of(error)] += 1
        tally.slowest = max(tally.slowest, time.monotonic() - began)

        tally.inputs += 1
        tally.mutated += given.mutated
        tally.accepted += outcome == "accepted"
        tally.refused += outcome == "refused"
        tally.outside.update(watch.found)
        if watch.wrote:
            shutil.rmtree(self.inside / MADE, ignore_errors=True)
            self._fill(given.base, self.valid[given.base])
        else:
            for name in given.changes:
                _write(folder / name, self.valid[given.base][name])
        if (after := snapshot(self.kept, self.root / "here")) != self.before:
            tally.outside[
                f"changed: {sorted(map(str, set(after.items()) ^ set(self.before.items())))}"[:200]
            ] += 1
            self.before = after


def _write(path: Path, content: Content) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    if content is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)  # what was read before may have tidied up
    if isinstance(content, Link):
        path.symlink_to(content.to)
    else:
        path.write_bytes(content)


def _is_clear(message: str) -> bool:
    """Something is said, at no such length that nobody reads it, and no object by its address."""
    return 10 < len(message) < 20_000 and "object at 0x" not in message


def _place_of(error: BaseException) -> str:
    """Its type and message, and the last places in the package that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "grasp_lora" in f.filename]
    return f"{type(error).__name__} < {' < '.join(own[:-4:-1])}"


def property_of(
    kind: Kind, place: Place, tally: Tally, number: int, *, stop: bool = True
) -> Callable[[], None]:
    """A test of hypothesis with so many inputs.

    Args:
        stop: At the first fault, which is then made small; else all of them are counted.
    """

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if stop else [Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(inputs(place.valid))
    def check(given: Input) -> None:
        before = len(tally.faults)
        place.tried(given, tally)
        if stop:
            assert not tally.faults[before:], (tally.faults[before:], given)

    return check
