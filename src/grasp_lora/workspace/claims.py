"""Who works on a stage elsewhere, in a folder whose name nobody else was told."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.paths import write_whole
from grasp_lora.workspace.records import Begun
from grasp_lora.workspace.unfinished import PARTIAL

__all__ = ["claimed", "gather", "worked_in"]

CLAIMS = ".claims"
"""In an unfinished stage's folder: the tokens of all claims, the newest first."""


@contextmanager
def claimed(partial: Path) -> Iterator[Path]:
    """A folder inside an unfinished stage's, with all that was left there, whose name is a new token.

    Who had an earlier claim has no such folder any more: what it still writes there by name goes nowhere that
    counts. When the block ends, the files are the stage's again.

    Raises:
        GraspError: Another process claimed it meanwhile.
    """
    folder = _claim(partial)
    try:
        yield folder
        if not folder.is_dir():
            raise GraspError(f"another process has taken over {partial}")
    finally:
        if folder.is_dir():
            gather(partial)


def gather(partial: Path) -> None:
    """Make what was claimed the stage's again, and nobody's claim."""
    if not (partial / CLAIMS).exists():
        return
    folder = _claim(partial)
    for path in list(folder.iterdir()):
        path.rename(partial / path.name)
    folder.rmdir()
    (partial / CLAIMS).unlink()


def worked_in(partial: Path) -> Path:
    """Where the files of an unfinished stage are being written."""
    folders = (partial / f"{token}{PARTIAL}" for token in _tokens(partial))
    return next((folder for folder in folders if folder.is_dir()), partial)


def _claim(partial: Path) -> Path:
    tokens, before = _tokens(partial), worked_in(partial)
    token = uuid.uuid4().hex
    folder = partial / f"{token}{PARTIAL}"
    write_whole(partial / CLAIMS, "\n".join([token, *tokens]).encode())
    if before == partial:
        folder.mkdir()
    else:
        before.rename(folder)
    for path in list(partial.iterdir()):
        if path.suffix == PARTIAL and path != folder:  # made by who came back and found nothing
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (Begun.FILE, CLAIMS, folder.name):
            path.rename(folder / path.name)
    return folder


def _tokens(partial: Path) -> list[str]:
    try:
        return [one for one in (partial / CLAIMS).read_text().split() if one.isalnum()]
    except (OSError, ValueError):
        return []
