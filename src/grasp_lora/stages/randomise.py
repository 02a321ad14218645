"""A source's adapter with its singular values and random singular vectors."""

from pathlib import Path
from typing import Any

from grasp_lora.merging.random_directions import randomise_adapter
from grasp_lora.workspace.stage import Work

__all__ = ["RANDOMISE"]


def randomise(resources: Any, folder: Path, *, adapter: Path, seed: int) -> None:
    """Leaves a PEFT adapter; see `randomise_adapter`."""
    randomise_adapter(adapter, folder, seed)


def _about(folder: Path, **_: Any) -> str:
    return "Its singular vectors were replaced by random ones, the singular values kept: a control."


RANDOMISE = Work(randomise, about=_about)
