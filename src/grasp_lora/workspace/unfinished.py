"""Folders of stages that are not finished: who has them, what of them stays, and disks that are full."""

import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.failures import advice
from grasp_lora.lm.logs import CHECKPOINT, CHECKPOINTS_FOLDER, WHOLE_FILE
from grasp_lora.workspace.changes import changes
from grasp_lora.workspace.lock import hold
from grasp_lora.workspace.records import SURVIVOR_FOLDER, Begun, Done, Maker

__all__ = [
    "PARTIAL",
    "REPLACED",
    "begun_in",
    "forget_unfinished",
    "is_over",
    "is_result",
    "move_aside",
    "step_reached",
    "take",
    "writing",
]

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
REPLACED = ".replaced-"  # and a number


def take(partial: Path, begun: Begun, held: ExitStack) -> bool:
    """Hold the folder as long as `held` does, and make it where it is missing; False: another process has it.

    What nobody knows to be of an unfinished stage is moved aside: it may be a user's. So is a training
    that was begun with other settings than what begins now.
    """
    partial.mkdir(parents=True, exist_ok=True)
    try:
        if held.enter_context(hold(partial)) is False:
            return False
    except FileNotFoundError:  # another process has just removed or renamed it
        return False
    left, names = begun_in(partial), {path.name for path in partial.iterdir()}
    if left is None and not names <= {Begun.FILE + PARTIAL}:
        move_aside(partial)
        return take(partial, begun, held)
    if left is not None and left != begun and step_reached(partial):
        logger.warning(
            "%s was begun with other settings and not finished: %s",
            partial.name.removesuffix(PARTIAL),
            "; ".join(changes(left.inputs, begun.inputs)) or "it did other work",
        )
        move_aside(partial)
        return take(partial, begun, held)
    return True


def step_reached(partial: Path) -> int:
    """The step of the newest checkpoint in an unfinished stage; 0: there is none."""
    steps = [p.parent.name.removeprefix(CHECKPOINT) for p in partial.rglob(f"{CHECKPOINT}*/{WHOLE_FILE}")]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def is_over(root: Path) -> bool:
    """Whether the process that made a run has surely ended: in order, or it is gone from this machine."""
    try:
        maker = Maker.read(root)
    except GraspError:
        return True
    if maker.host != socket.gethostname():
        return False
    try:
        os.kill(maker.pid, 0)
    except (ProcessLookupError, OverflowError):  # no process has so large a number
        return True
    except OSError:  # it is another user's
        return False
    return False


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
    return path.parts[0] not in (Begun.FILE, CHECKPOINTS_FOLDER, SURVIVOR_FOLDER)


def move_aside(folder: Path) -> None:
    """Give a folder, where it is there, a name that nothing else has."""
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}{REPLACED}{number}")).exists():
            number += 1
        folder.rename(aside)
        logger.warning("what was in %s is now in %s", folder, aside.name)


@contextmanager
def writing(stage: str) -> Iterator[None]:
    """What the user can mend is said of the stage: memory, a disk, a model hub; see `failures.advice`."""
    try:
        yield
    except GraspError:
        raise
    except Exception as error:
        if (what := advice(error)) is None:
            raise
        raise GraspError(f"{stage}: {what}") from error
