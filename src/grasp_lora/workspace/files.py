"""JSON and JSON Lines."""

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from grasp_lora.paths import write_whole

__all__ = ["append_line", "changed_at", "empty", "read_lines", "write_json", "write_lines"]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either whole or absent."""
    write_whole(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def empty(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove what is in the folder, but for these names; links are removed, not followed."""
    for path in folder.iterdir():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON Lines: one object each."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """One more object of a JSON Lines file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_lines(path: Path) -> Iterator[Any]:
    """The objects of a JSON Lines file."""
    with path.open(encoding="utf-8") as lines:  # by line feeds alone: texts may hold U+2028
        for line in lines:
            yield json.loads(line)


def changed_at(path: Path) -> float:
    """When a file or a folder itself was last changed, in seconds since the epoch; 0 where it is gone."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
