"""What a reader does beside reading: files that it writes elsewhere, programs, connections, pickles; and how
long it takes.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["TooSlow", "limited", "snapshot", "watched"]

SECONDS = 20.0  # that an input may take


class TooSlow(BaseException):
    """Not an Exception, so that no reader takes it for a fault of its file."""


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Stop what is inside after so many seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events of Python's audit hooks -> which arguments are paths that change.
_CHANGES = {
    "os.mkdir": (0,), "os.remove": (0,), "os.rmdir": (0,), "os.rename": (0, 1), "os.link": (1,),
    "os.symlink": (1,),
    "os.chmod": (0,), "os.chown": (0,), "os.truncate": (0,), "os.utime": (0,), "shutil.rmtree": (0,),
}  # fmt: skip
_NEVER = {
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect",
    "socket.getaddrinfo",
    "pickle.find_class", "webbrowser.open",
}  # fmt: skip


class _Watch:
    """One hook for the whole process: hooks cannot be taken away."""

    def __init__(self) -> None:
        self.inside: str | None = None
        self.thread = 0
        self.found: list[str] = []
        self.wrote = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None or threading.get_ident() != self.thread:
            return
        if event in _NEVER:
            self.found.append(f"{event} {arguments[:1]!r}"[:200])
        elif event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & _WRITES:
                self._changed(event, path)
        elif event in _CHANGES and (event == "os.truncate" or arguments[-1] in (-1, None)):
            for place in _CHANGES[
                event
            ]:  # not: names below an open folder, as rmtree has them; that is asked
                if not isinstance(arguments[place], int):
                    self._changed(event, arguments[place])

    def _changed(self, event: str, path: Any) -> None:
        inside, self.inside = self.inside, None
        try:
            folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
            real = os.path.join(os.path.realpath(folder), name)
            self.wrote = True
            if not real.startswith(f"{inside}/") and real != "/dev/null":
                self.found.append(f"{event} {real}"[:200])
        finally:
            self.inside = inside


_WATCH = _Watch()
_HOOKED: list[bool] = []


@contextmanager
def watched(inside: Path) -> Iterator[_Watch]:
    """What is `found` on the way out, and whether it `wrote`; only below `inside` anything may change."""
    if not _HOOKED:
        _HOOKED.append(True)
        sys.addaudithook(_WATCH)
    _WATCH.found, _WATCH.wrote, _WATCH.thread = [], False, threading.get_ident()
    _WATCH.inside = os.path.realpath(inside)
    try:
        yield _WATCH
    finally:
        _WATCH.inside = None


def snapshot(*folders: Path) -> dict[str, tuple[int, int, int]]:
    """Of everything in the folders: kind, size, when it was changed."""
    found = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        about = path.lstat()
        found[str(path)] = (about.st_mode, about.st_size, about.st_mtime_ns)
    return found
