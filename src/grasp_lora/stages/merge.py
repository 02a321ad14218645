"""One adapter from several (GRASP Sec. 3.2, Eq. 1)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grasp_lora.merging import merge_adapters
from grasp_lora.workspace.about import named
from grasp_lora.workspace.stage import Work

__all__ = ["MERGE"]


def merge(resources: Any, folder: Path, *, adapters: Mapping[str, Path], method: str) -> None:
    """Leaves a PEFT adapter with `parts.json`."""
    merge_adapters(adapters, folder, method=method)


def _about(folder: Path, *, adapters: Mapping[str, Any], method: str, **_: Any) -> str:
    return f"Merged ({method}): {named(adapters)}."


MERGE = Work(merge, about=_about)
