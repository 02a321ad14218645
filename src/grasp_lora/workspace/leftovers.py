"""What nobody needs of a run directory: unfinished stages, stages moved aside, checkpoints, logs.

Only what this package or the Trainer is known to have made is found. Links are never followed.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grasp_lora.control.halving import RUNGS_FILE
from grasp_lora.control.rounds import PROBES_FILE, ROUNDS_FILE, TIMINGS_FILE
from grasp_lora.errors import GraspError
from grasp_lora.lm.logs import TENSORBOARD_FOLDER, TRAIN_LOG_FILE
from grasp_lora.workspace.files import changed_at
from grasp_lora.workspace.lock import QUIET, hold
from grasp_lora.workspace.records import (
    CONFIG_FILE,
    MASK_FILE,
    SUMMARY_FILE,
    Begun,
    DevLosses,
    Done,
    Importance,
    LearnedRatio,
    MeasuredDeployment,
    Pruned,
    RankCheck,
    Trial,
    Weights,
)
from grasp_lora.workspace.rows import Answer, Row
from grasp_lora.workspace.unfinished import PARTIAL, REPLACED, begun_in, step_reached

__all__ = ["Leftover", "leftovers", "remove"]

TRAINER_STATE = "trainer_state.json"  # in each checkpoint of the Trainer
UNFINISHED, CHECKPOINTED = "unfinished stage", "checkpoint"
CHECKPOINT = re.compile(r"checkpoint-\d+")
OURS = {
    MASK_FILE, SUMMARY_FILE, TRAINER_STATE, TRAIN_LOG_FILE, TENSORBOARD_FOLDER,
    RUNGS_FILE, ROUNDS_FILE, PROBES_FILE, TIMINGS_FILE, Weights.SEARCH_FILE, Row.SCORES_FILE, Row.COST_FILE,
    *(one.FILE for one in (Answer, Begun, DevLosses, Importance, LearnedRatio, MeasuredDeployment, Pruned,
                           RankCheck, Trial, Weights)),
}  # fmt: skip
"""What stages write, beside adapters."""
ASIDE = re.compile(rf".+{re.escape(REPLACED)}\d+")


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder.

    Attributes:
        what: What it is, in words.
        keep: Why it must stay for now; empty where it may go.
        identity: Device and inode: what is removed is this folder, and no later one of its name.
    """

    path: Path
    what: str
    bytes: int
    keep: str
    identity: tuple[int, int]


def leftovers(run: Path, *, logs: bool = False, now: float | None = None) -> list[Leftover]:
    """What could be removed, in the order of the names.

    Args:
        logs: Whether TensorBoard's events of finished stages count.

    Raises:
        GraspError: It is no run's folder.
    """
    if not (run / CONFIG_FILE).is_file():
        raise GraspError(f"{run} is no run: it has no {CONFIG_FILE}; nothing in it is touched")
    now = time.time() if now is None else now
    found = [_leftover(path, what, stage, now) for path, what, stage in _known(run, logs)]
    return sorted((one for one in found if one is not None), key=lambda one: one.path)


def remove(one: Leftover) -> bool:
    """Remove it; False where it is gone, is another folder by now, or somebody has begun to make it.

    Raises:
        GraspError: The file system does not allow it.
    """
    try:
        if one.keep or (one.what.startswith(UNFINISHED) and _in_the_making(one.path, time.time())):
            return False
        with hold(one.path) as held:
            if held is False or _identity(one.path) != one.identity:
                return False
            shutil.rmtree(one.path)
            return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise GraspError(f"{one.path} cannot be removed: {error.strerror}") from None


def _known(run: Path, logs: bool) -> Iterator[tuple[Path, str, Path | None]]:
    """Folders, what each is, and the finished stage that it is in."""
    waiting: list[tuple[Path, Path | None]] = [(run, None)]
    while waiting:
        place, stage = waiting.pop()
        stage = place if (place / Done.FILE).is_file() else stage
        for path in _folders(place):
            if path.name.endswith(PARTIAL):
                if _is_unfinished(path):
                    yield path, UNFINISHED, stage
            elif ASIDE.fullmatch(path.name) and begun_in(path) is not None:
                yield path, "unfinished stage that was begun with other settings", stage
            elif ASIDE.fullmatch(path.name) and (path / Done.FILE).is_file():
                yield path, "stage that was made again", stage
            elif stage and CHECKPOINT.fullmatch(path.name) and (path / TRAINER_STATE).is_file():
                yield path, CHECKPOINTED, stage
            elif stage == place and path.name == TENSORBOARD_FOLDER:
                if logs:
                    yield path, "TensorBoard log", stage
            else:
                waiting.append((path, stage))


def _is_unfinished(path: Path) -> bool:
    """Whether a stage was begun in it, and none in it is done."""
    names = {one.name.removesuffix(PARTIAL) for one in path.rglob("*")}
    if Done.FILE in names:
        return False
    if not names or names & OURS:
        return True
    from grasp_lora.merging.hub import ADAPTER_FILES  # which brings torch along: only where it is asked for

    return not names.isdisjoint(ADAPTER_FILES)


def _leftover(path: Path, what: str, stage: Path | None, now: float) -> Leftover | None:
    try:
        identity = _identity(path)
        keep = _reason_to_keep(path, what, stage, now)
    except OSError:  # it was renamed meanwhile: it has become a stage
        return None
    if what == UNFINISHED and (step := step_reached(path)):
        what = f"{UNFINISHED}, whose training goes on after step {step}"
    return Leftover(path, what, _bytes(path), keep, identity)


def _reason_to_keep(path: Path, what: str, stage: Path | None, now: float) -> str:
    if stage is not None and what == CHECKPOINTED and _is_result(path, stage):
        return "its stage counts it among its results"
    return _in_the_making(path, now) if what == UNFINISHED else ""


def _in_the_making(path: Path, now: float) -> str:
    with hold(path) as held:
        if held is False:
            return "it is being made"
    changed = max(map(changed_at, [path, *path.rglob("*")]))
    # Some file systems keep locks to one machine, and the process may be on another.
    return "it has just changed, so it may be in the making" if now - changed < QUIET else ""


def _is_result(checkpoint: Path, stage: Path) -> bool:
    """Whether the stage says that it has these files: without them it would count as damaged."""
    try:
        outputs = Done.read(stage).outputs
    except GraspError:
        return True
    return any(Path(file).is_relative_to(checkpoint.relative_to(stage)) for file in outputs)


def _folders(place: Path) -> list[Path]:
    try:
        with os.scandir(place) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _bytes(path: Path) -> int:
    """Of all files in it, links not followed."""
    total = 0
    for place, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # it went meanwhile
                continue
    return total
