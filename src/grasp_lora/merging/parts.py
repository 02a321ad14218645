"""Which rows and columns of a merged adapter came from which adapter (`parts.json`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from grasp_lora.errors import GraspError

__all__ = ["PARTS_FILE", "Part", "PartsOrFolder", "find_parts", "read_parts", "write_parts"]

PARTS_FILE = "parts.json"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `start:stop` of A (R, in) and columns `start:stop` of B (out, R) belong to adapter `name`."""

    name: str
    start: int
    stop: int


def write_parts(folder: Path, parts: Mapping[str, Sequence[Part]]) -> None:
    """Writes `parts.json` into `folder`; keys are sites, that is module paths as in the base model."""
    rows = {site: [asdict(part) for part in of_site] for site, of_site in sorted(parts.items())}
    temporary = folder / f".{PARTS_FILE}.tmp"
    temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / PARTS_FILE)


def read_parts(folder: Path) -> dict[str, tuple[Part, ...]] | None:
    """The parts of the adapter in `folder`, or None if it is not a merged one.

    Raises GraspError where the file is not what `write_parts` writes.
    """
    path = folder / PARTS_FILE
    if not path.exists():
        return None
    try:
        parts = _PARTS.validate_json(path.read_bytes(), strict=True)
        if wrong := [site for site, of_site in parts.items() if not _follow(of_site)]:
            raise ValueError(f"at {wrong[0]} they do not follow one another")
        return parts
    except (OSError, ValueError) as error:
        raise GraspError(
            f"{path} does not describe the parts of a merged adapter ({error}); merge the adapters again"
        ) from error


_PARTS = TypeAdapter(dict[str, tuple[Part, ...]])


def _follow(parts: Sequence[Part]) -> bool:
    """Whether they are rows 0 to the rank, with none left out and none twice."""
    return (
        bool(parts)
        and [0, *(part.stop for part in parts[:-1])] == [part.start for part in parts]
        and all(part.start < part.stop for part in parts)
    )


PartsOrFolder = Mapping[str, Sequence[Any]] | str | Path | None


def find_parts(parts: PartsOrFolder) -> Mapping[str, Sequence[Any]] | None:
    """Parts as they are, or those of a merged adapter's folder.

    Raises:
        GraspError: A folder was given, and has none.
    """
    if not isinstance(parts, str | Path):
        return parts
    if (found := read_parts(Path(parts))) is None:
        raise GraspError(
            f"parts='{parts}': there is no {PARTS_FILE}. Give the folder that merge_adapters wrote, or leave "
            "parts out for an adapter that was not merged"
        )
    return found
