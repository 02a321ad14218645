"""docs/reliability.md, from what is measured: each part of it is a JSON file below docs/results/reliability/.

A part is written by whatever measures it (`write_part`), and `python -m tests.helpers.reliability` makes the
page of all that are there.
"""

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grasp_lora.workspace.environment import environment
from grasp_lora.workspace.private import private_things

__all__ = ["PAGE", "PARTS", "Part", "Table", "machine", "read_parts", "rendered", "write_part"]

ROOT = Path(__file__).parents[2]
PARTS = ROOT / "docs/results/reliability"
PAGE = ROOT / "docs/reliability.md"
HEAD = """# What was done to break it

Made by `python -m tests.helpers.reliability` from [what the commands below measured](results/reliability/).
Nothing here is written by hand.
"""


@dataclass(frozen=True)
class Table:
    """A table and what stands before it; `about` may be empty."""

    about: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Part:
    """A section of the page.

    Attributes:
        name: Of its file; parts stand in the order of their names.
        command: That measures it again.
        text: Paragraphs: what was tested, and how.
        machine: What it was measured on, see `machine`.
    """

    name: str
    title: str
    command: str
    text: Sequence[str]
    tables: Sequence[Table]
    machine: Mapping[str, Any]


def machine(*packages: str) -> dict[str, Any]:
    """This one, without names and paths: processor, cores, Python, and versions of packages."""
    known = environment()
    kept = ("processor", "cores", "gpus", "torch", "transformers", "peft", "safetensors", "git_commit")
    return {
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "system": f"{platform.system()} {platform.release()}",
        "python": known["python"],
        **{key: known[key] for key in kept if known[key]},
        **{name: version(name) for name in packages},
    }


def write_part(part: Part, folder: Path = PARTS) -> Path:
    """Its file; nothing private may be in it."""
    text = json.dumps(asdict(part), ensure_ascii=False, indent=1) + "\n"
    assert not (found := private_things(text)), found
    assert str(Path.home()) not in text
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part.name}.json"
    path.write_text(text, encoding="utf-8")
    return path


def read_parts(folder: Path = PARTS) -> list[Part]:
    """All of them, in order."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [Part(**{**one, "tables": [Table(**table) for table in one["tables"]]}) for one in found]


def rendered(parts: Sequence[Part]) -> str:
    """The page."""
    return HEAD + "".join(map(_section, parts))


def _section(part: Part) -> str:
    on = ", ".join(f"{key} {_shown(value)}" for key, value in part.machine.items())
    blocks = [f"## {part.title}", *part.text, *map(_table, part.tables)]
    blocks.append(f"Measured again by `{part.command}`. On: {on}.")
    return "\n" + "\n\n".join(blocks) + "\n"


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _table(table: Table) -> str:
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n\n".join(filter(None, [table.about, "\n".join(lines)]))


if __name__ == "__main__":
    PAGE.write_text(rendered(read_parts()), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
