"""Logs that are being written while they are read: what is whole of them."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from grasp_lora.control.rounds import ROUNDS_FILE, Round
from grasp_lora.lm.logs import TRAIN_LOG_FILE
from grasp_lora.workspace.files import changed_at
from grasp_lora.workspace.records import CONFIG_FILE, SUMMARY_FILE
from grasp_lora.yamls import parse_yaml

__all__ = [
    "config_of",
    "latest_log",
    "mapping_of",
    "names_of",
    "numbers",
    "read_so_far",
    "rounds_so_far",
    "verdict_lines",
]

_ROUND = TypeAdapter(Round)
VERDICT_PARAGRAPHS = 3  # what to deploy, whether pruning helped, what it cost


def read_so_far(path: Path) -> list[Mapping[str, Any]]:
    """The objects of a JSON Lines file without lines that are not whole yet, or are no object; none where the
    file is not there.
    """
    return [value for line in _whole_lines(path) if isinstance(value := _json(line), dict)]


def rounds_so_far(folder: Path) -> tuple[Round, ...]:
    """The controller's rounds that a folder has, be it none."""
    rounds = []
    for line in _whole_lines(folder / ROUNDS_FILE):
        try:
            rounds.append(_ROUND.validate_json(line))
        except ValueError:
            continue
    return tuple(one for one in rounds if one.probes)


def latest_log(folder: Path) -> list[Mapping[str, Any]]:
    """The training log in a folder, or in one of those below it that are used in turn, as trials are."""
    found = {
        path: changed_at(path) for path in [folder / TRAIN_LOG_FILE, *folder.glob(f"*/{TRAIN_LOG_FILE}")]
    }
    return read_so_far(max(found, key=found.__getitem__))


def numbers(lines: list[Mapping[str, Any]], key: str) -> tuple[float, ...]:
    """The finite numbers under a key, in the lines that have one."""
    found: list[Any] = [value for line in lines if type(value := line.get(key)) in (int, float)]
    return tuple(float(value) for value in found if abs(value) <= sys.float_info.max)


def config_of(run: Path) -> Mapping[str, Any]:
    """What a run was last made with; empty where it cannot be read, as while it is being written."""
    try:
        found = parse_yaml((run / CONFIG_FILE).read_text(encoding="utf-8"), CONFIG_FILE)
    except (OSError, ValueError):  # GraspError is one, too
        return {}
    return found if isinstance(found, dict) else {}


def mapping_of(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What a config has under a key by names, where that is a mapping; else nothing."""
    found = config.get(key)
    named = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in named if isinstance(name, str)}


def names_of(config: Mapping[str, Any], key: str) -> list[str]:
    """The names that a config has under a key: a list, or one alone."""
    found = config.get(key)
    listed = found if isinstance(found, list) else [found]
    return [name for name in listed if isinstance(name, str)]


def verdict_lines(folder: Path) -> tuple[str, ...]:
    """The verdict that a report's summary begins with."""
    try:
        text = (folder / SUMMARY_FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(" ".join(part.split()) for part in text.split("\n\n")[:VERDICT_PARAGRAPHS])


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        yield from path.read_bytes().split(b"\n")[:-1]  # after the last line feed is a beginning, or nothing
    except OSError:
        return


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
