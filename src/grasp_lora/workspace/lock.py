"""Who makes a folder holds it: a lock that leaves no file, and that ends with the process however it ends.

It is on the folder itself (flock), so that it goes along when that is renamed. Some network file systems
have no such locks, or keep them to one machine: that nobody holds a folder is then not known for sure.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["QUIET", "hold", "is_held"]

QUIET = 180.0  # seconds without a change, after which what nobody is known to hold counts as left behind
_LOOK = 0.2  # seconds, more than those need that only look


@contextmanager
def hold(folder: Path) -> Iterator[bool | None]:
    """Hold a folder unless somebody does: whether it is held now; None where the file system has no locks.

    False, too, where another folder has taken its name meanwhile.

    Raises:
        OSError: It is gone, or no folder.
    """
    with _locked(folder, fcntl.LOCK_EX, _LOOK) as (handle, locked):
        found = folder.lstat()
        yield locked if os.path.samestat(os.fstat(handle), found) else False


def is_held(folder: Path) -> bool | None:
    """Whether somebody holds the folder; None where the file system has no locks, False where it is gone."""
    try:
        with _locked(folder, fcntl.LOCK_SH, 0.0) as (_, locked):  # shared: who looks is in nobody's way
            return None if locked is None else not locked
    except OSError:
        return False


@contextmanager
def _locked(folder: Path, how: int, patience: float) -> Iterator[tuple[int, bool | None]]:
    """The folder's handle, and whether it is locked; asked again for so many seconds."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield handle, _lock(handle, how | fcntl.LOCK_NB, time.monotonic() + patience)
    finally:
        os.close(handle)


def _lock(handle: int, how: int, until: float) -> bool | None:
    while True:
        try:
            fcntl.flock(handle, how)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)
        except OSError:
            return None
