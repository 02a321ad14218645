"""Whether a finished stage is what the same inputs would make again."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from grasp_lora.errors import GraspError
from grasp_lora.paths import digest
from grasp_lora.workspace.records import LOGS, Done

__all__ = ["FORMAT", "Wrong", "changes", "wrong_with"]

FORMAT = 2


class Wrong(NamedTuple):
    """Why a finished stage is not what its inputs would make.

    Attributes:
        state: "changed", where it was given other inputs; "damaged", where its files are not as it left them.
        why: In words, which go on from the name of its folder.
    """

    state: str
    why: str


def wrong_with(folder: Path, inputs: Mapping[str, Any], *, contents: bool = True) -> Wrong | None:
    """Why a finished stage is not what these inputs would make; None where it is.

    Args:
        contents: Whether its files are hashed, too.
    """
    try:
        done = Done.read(folder)
    except GraspError:
        return Wrong("damaged", f"has a damaged {Done.FILE}. ")
    if done.format != FORMAT:
        earlier = "was made by an earlier version, which kept other notes of what it was given. "
        return Wrong("changed", earlier)
    if changed := changes(done.inputs, inputs):
        return Wrong("changed", "was made with other settings:\n  " + "\n  ".join(changed) + "\n")
    for file, sha256 in done.outputs.items() if contents else ():
        if Path(file).parts[0] not in LOGS and not _is(folder / file, sha256):
            return Wrong("damaged", f"is damaged: {file} is missing or was changed. ")
    return None


def _is(path: Path, sha256: str) -> bool:
    try:
        there = path.is_file()
    except OSError:  # no file can have such a name
        return False
    return there and digest(path) == sha256


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the inputs of two stages, in words."""
    missing = object()
    keys = sorted(k for k in {*old, *new} if old.get(k, missing) != new.get(k, missing))
    return [_change(key, old.get(key, "absent"), new.get(key, "absent")) for key in keys]


def _change(key: str, old: Any, new: Any) -> str:
    if all(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in (old, new)):
        return f"{key}: was another; its contents changed"
    return f"{key}: was {old}, now {new}"
