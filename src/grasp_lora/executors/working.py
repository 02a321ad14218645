"""What a process does that does the work of stages for another one."""

import gc
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from grasp_lora.executors.together import Numbered
from grasp_lora.lm.adapters import Lora
from grasp_lora.stopping import Stopping
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.records import Done
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, inside

__all__ = ["Manners", "Order", "begin", "kind_of"]


@dataclass(frozen=True, slots=True)
class Manners:
    """How a process is to be: with so many threads, and no louder than the one that it works for."""

    threads: int
    level: int = field(default_factory=lambda: logging.getLogger("grasp_lora").level)
    filters: tuple[Any, ...] = field(default_factory=lambda: tuple(warnings.filters))


_begun: list[Resources] = []


def begin(manners: Manners) -> Resources:
    """A process's first words, said once; what its stages share."""
    if _begun:
        return _begun[0]
    from transformers.utils.logging import disable_progress_bar

    cast(list[Any], warnings.filters)[:] = manners.filters
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("grasp_lora").setLevel(manners.level)
    disable_progress_bar()  # several bars on one terminal
    torch.set_num_threads(manners.threads)
    gc.freeze()  # what stages leave is found without looking at all modules
    _begun.append(Resources(stopping=Stopping(patient=True)))
    return _begun[0]


@dataclass(frozen=True, slots=True)
class Order:
    """One stage's work.

    Attributes:
        root: The run's folder.
        checkpoint_every: See `Resources`.
        place: Which stage of how many it is, for the log.
        folder: Where its files are to be.
        inputs: As `RunDirectory.work` takes them.
        report_to: See `Resources`.
    """

    root: Path
    checkpoint_every: int | None
    place: str
    stage: Stage
    folder: Path
    inputs: Mapping[str, Any]
    report_to: Sequence[str] | None = None

    @classmethod
    def of(cls, run: RunDirectory, stage: Stage, folder: Path, inputs: Mapping[str, Any]) -> "Order":
        """With what the run says of it."""
        shown = run.resources.shown
        place = shown.place if isinstance(shown, Numbered) else ""
        every, report_to = run.resources.checkpoint_every, run.resources.report_to
        return cls(run.root.resolve(), every, place, stage, folder.resolve(), inputs, report_to)

    def do(self, resources: Resources) -> Done:
        """Do it, here."""
        resources.report_to = self.report_to
        resources.checkpoint_every, resources.shown = self.checkpoint_every, Numbered(self.place)
        resources.shown.begin(self.stage.name)
        with resources.stopping.on_signals():
            return RunDirectory(self.root, resources).work(self.stage, self.folder, self.inputs)


def kind_of(stage: Stage) -> str:
    """Equal for stages that need about as much memory."""
    given = {key: stage.given.get(key) for key in ("model", "limits", "training")}
    loras = [value for value in inside(stage.given) if isinstance(value, Lora)]
    return f"{stage.work.name} {given} {loras}"
