"""What trainings left beside their adapters: logs, what was pruned, what was important."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grasp_lora.control.noise import Look
from grasp_lora.control.rounds import Round, read_rounds
from grasp_lora.lm.logs import TRAIN_LOG_FILE
from grasp_lora.ratios import PruneRatio
from grasp_lora.reporting.logs import read_so_far
from grasp_lora.workspace.records import Importance, LearnedRatio, Pruned

__all__ = ["Learned", "Trained", "by_site"]


@dataclass(frozen=True, slots=True)
class Learned:
    """A learning run: p* and its rounds."""

    p: PruneRatio
    rounds: tuple[Round, ...]
    warnings: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    """Whose the ratios are, where each has its own."""
    look: Look | None = None
    """At some ratios on dev, after the last step; not always at this p*."""
    log: Sequence[Mapping[str, Any]] = ()
    """The lines of its training's log."""

    @classmethod
    def read(cls, folder: Path, chosen: Path) -> "Learned":
        """Of a learning run's folder, and the folder of what p* is from."""
        ratio = LearnedRatio.read(chosen)
        look = Look.read(folder)
        return cls(
            ratio.found,
            read_rounds(folder),
            tuple(ratio.warnings),
            tuple(ratio.adapters),
            look,
            tuple(read_so_far(folder / TRAIN_LOG_FILE)),
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """One trained adapter."""

    log: Sequence[Mapping[str, Any]] = ()
    """Lines with `step`, and `loss` or `dev_loss`."""
    pruned: Pruned = field(default_factory=Pruned)
    importance: Mapping[str, float] = field(default_factory=dict)
    """By prune unit, see `records.Importance`."""

    @classmethod
    def read(cls, folder: Path) -> "Trained":
        """Of an adapter's folder; what is not there is empty."""
        found = Importance.read(folder).by_unit if (folder / Importance.FILE).exists() else {}
        return cls(tuple(read_so_far(folder / TRAIN_LOG_FILE)), Pruned.of(folder), found)


def by_site(units: Mapping[str, float]) -> Iterator[tuple[int, str, str, str, float]]:
    """(layer, projection, factor, adapter, value) of units by their names, `SITE.lora_A[ADAPTER]` or
    `SITE[ADAPTER]`; sites without a number of a layer are left out.
    """
    for name, value in units.items():
        site, _, adapter = name.rstrip("]").partition("[")
        path = site.split(".")
        factor = path.pop().removeprefix("lora_") if path[-1].startswith("lora_") else ""
        layer = next((int(part) for part in path if part.isdigit()), None)
        if layer is not None:
            yield layer, path[-1], factor, adapter, value
