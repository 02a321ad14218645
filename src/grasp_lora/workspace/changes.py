"""Whether a finished stage is what the same inputs would make again."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.paths import digest
from grasp_lora.workspace.records import LOGS, Done

__all__ = ["FORMAT", "changes", "wrong_with"]

FORMAT = 2


def wrong_with(folder: Path, inputs: Mapping[str, Any]) -> str:
    """Why a finished stage is not what these inputs would make; empty where it is."""
    try:
        done = Done.read(folder)
    except GraspError:
        return f"has a damaged {Done.FILE}. "
    if done.format != FORMAT:
        return "was made by an earlier version, which kept other notes of what it was given. "
    if changed := changes(done.inputs, inputs):
        return "was made with other settings:\n  " + "\n  ".join(changed) + "\n"
    for file, sha256 in done.outputs.items():
        if Path(file).parts[0] not in LOGS and not _is(folder / file, sha256):
            return f"is damaged: {file} is missing or was changed. "
    return ""


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
