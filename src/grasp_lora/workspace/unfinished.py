"""Folders of stages that are not finished: who has them, and what of them stays."""

import logging
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.lm.logs import CHECKPOINTS_FOLDER
from grasp_lora.workspace.lock import hold
from grasp_lora.workspace.records import Begun, Done

__all__ = ["PARTIAL", "REPLACED", "begun_in", "forget_unfinished", "is_result", "move_aside", "take"]

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
REPLACED = ".replaced-"  # and a number


def take(partial: Path, held: ExitStack) -> bool:
    """Hold the folder as long as `held` does, and make it where it is missing; False: another process has it.

    What nobody knows to be of an unfinished stage is moved aside: it may be a user's.
    """
    partial.mkdir(parents=True, exist_ok=True)
    try:
        if held.enter_context(hold(partial)) is False:
            return False
    except FileNotFoundError:  # another process has just removed or renamed it
        return False
    begun_writing = {Begun.FILE + PARTIAL}
    if begun_in(partial) is None and not {path.name for path in partial.iterdir()} <= begun_writing:
        move_aside(partial)
        return take(partial, held)
    return True


def begun_in(folder: Path) -> Begun | None:
    """What a folder says that it is the beginning of; None where it is finished, or nothing of ours."""
    if (folder / Done.FILE).exists():
        return None
    try:
        return Begun.read(folder)
    except GraspError:
        return None


def forget_unfinished(folder: Path) -> None:
    """Remove from a finished stage what it was resumed by."""
    if (folder / Begun.FILE).exists():
        with suppress(OSError):
            shutil.rmtree(folder / CHECKPOINTS_FOLDER, ignore_errors=True)
            (folder / Begun.FILE).unlink()


def is_result(path: Path) -> bool:
    """Whether a file, its path from the stage's folder on, stays when the stage is finished."""
    return path.parts[0] not in (Begun.FILE, CHECKPOINTS_FOLDER)


def move_aside(folder: Path) -> None:
    """Give a folder, where it is there, a name that nothing else has."""
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}{REPLACED}{number}")).exists():
            number += 1
        folder.rename(aside)
        logger.warning("what was in %s is now in %s", folder, aside.name)
