"""Who makes a folder holds it: a lock that leaves no file, and that ends with the process however it ends.

It is on the folder itself (flock), so that it goes along when that is renamed. Some network file systems
have no such locks, or keep them to one machine: that nobody holds a folder is then not known for sure.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["QUIET", "hold", "is_held", "try_to_hold"]

QUIET = 180.0  # seconds without a change, after which what nobody is known to hold counts as left behind


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder that one has just made; where the file system has no locks, nothing is held."""
    with _locked(folder, fcntl.LOCK_EX):  # waits for those that only look, which takes them no time
        yield


@contextmanager
def try_to_hold(folder: Path) -> Iterator[bool | None]:
    """Hold a folder unless somebody does: whether it is held now; None where the file system has no locks."""
    with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as locked:
        yield locked


def is_held(folder: Path) -> bool | None:
    """Whether somebody holds the folder; None where the file system has no locks, False where it is gone."""
    try:
        with _locked(folder, fcntl.LOCK_SH | fcntl.LOCK_NB) as locked:  # shared: who looks is in nobody's way
            return None if locked is None else not locked
    except OSError:
        return False


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool | None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, how)
            locked: bool | None = True
        except BlockingIOError:
            locked = False
        except OSError:
            locked = None
        yield locked
    finally:
        os.close(handle)
