"""Inputs of stages that stand for more than themselves: rows, the backbone, what lies behind an adapter."""

import hashlib
import random
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grasp_lora.lm.backbone import Attention, DeviceMap, DType, resolve_dtype
from grasp_lora.lm.packaged.backbones import resolve_backbone
from grasp_lora.lm.quantization import Quantization
from grasp_lora.lm.training import Training
from grasp_lora.ratios import PruneRatio
from grasp_lora.tasks.example import Example
from grasp_lora.tasks.lazy import picked
from grasp_lora.tasks.task import Task
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.records import DevLosses
from grasp_lora.workspace.stage import Input, Stage, behind, inside

__all__ = ["Behind", "Bill", "Encoder", "Fold", "Model", "Rows", "line_of"]


@dataclass(frozen=True, slots=True)
class Fold:
    """One of `of` parts of some rows, in an order that `repeat` draws; rows of one group are in one part.

    Attributes:
        held_out: Whether it is the part itself, or all the others.
    """

    number: int
    of: int
    repeat: int
    held_out: bool = False

    def part(self, examples: Sequence[Example]) -> Sequence[Example]:
        """In the order given."""
        groups = list(dict.fromkeys(example.group or example.id for example in examples))
        order = random.Random(f"folds {self.repeat}").sample(groups, len(groups))
        own = set(order[self.number :: self.of])
        places = (i for i, one in enumerate(examples) if ((one.group or one.id) in own) == self.held_out)
        return picked(examples, array("Q", places))


@dataclass(frozen=True)
class Rows(Input):
    """A split of one language of a task, or its first `limit` rows; where train has fewer, then the pool's.

    Resolved: examples.

    Attributes:
        at_least: Fewer than so many rows are an error.
        draw: n > 0: not the first rows but a sample of train and pool, another one for each n.
        also: Rows of other splits, after these.
        fold: Of all these, the part that a fold trains on, or the one that it holds out.
    """

    task: Task
    language: str
    split: str
    limit: int | None = None
    at_least: int = 0
    draw: int = 0
    also: tuple["Rows", ...] = ()
    fold: Fold | None = None

    @property
    def each(self) -> tuple["Rows", ...]:
        """These rows and those after them, split by split, whatever the fold."""
        return (replace(self, also=(), fold=None), *self.also)

    @property
    def is_sample(self) -> bool:
        """Whether they are other rows than the experiment's own split."""
        return bool(self.draw or self.also or self.fold)

    @property
    def splits(self) -> Collection[str]:
        """Those that the task has of the language."""
        return self.task.languages.get(self.language, {}).keys()

    def fingerprint(self, run: RunDirectory) -> str:
        """A hash of all that is in the examples, in their order."""
        return run.resources.rows_digest(self)

    def resolve(self, run: RunDirectory) -> Sequence[Example]:
        return run.resources.examples(self)


_WHERE_SET = ("trust_remote_code", "quantization", "attention")  # runs without them have the keys they had


@dataclass(frozen=True)
class Model(Input):
    """A backbone by name, and how it is loaded. Resolved: itself; `Resources.backbone` loads it."""

    name: str
    revision: str | None = None
    dtype: DType = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    quantization: Quantization | None = None
    attention: Attention | None = None
    device_map: DeviceMap | None = None

    @property
    def number_format(self) -> str:
        """What `auto` stands for depends on the device."""
        return resolve_dtype(self.dtype, self.device)

    @property
    def path(self) -> str:
        """What transformers loads: a hub name or a folder."""
        return resolve_backbone(self.name)

    def fingerprint(self, run: RunDirectory) -> dict[str, Any]:
        return {
            "name": self.name,
            "revision": self.revision,
            "files": folder_digest(self.name),
            "dtype": self.number_format,
            **{name: value for name in _WHERE_SET if (value := getattr(self, name))},
        }

    def resolve(self, run: RunDirectory) -> "Model":
        return self


@dataclass(frozen=True)
class Encoder(Input):
    """BERTScore's encoder, the layer that is compared, and whether values are rescaled. Resolved: itself."""

    name: str
    layer: int
    rescale: bool = False

    def fingerprint(self, run: RunDirectory) -> dict[str, Any]:
        return {**asdict(self), "files": folder_digest(self.name)}

    def resolve(self, run: RunDirectory) -> "Encoder":
        return self


@dataclass(frozen=True)
class Bill(Input):
    """What some stages cost. Resolved: stage -> cost."""

    paid: tuple[Stage, ...]

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.paid

    def fingerprint(self, run: RunDirectory) -> dict[str, str]:
        return {stage.name: run.made(stage.name) for stage in self.paid}

    def resolve(self, run: RunDirectory) -> dict[str, dict[str, Any]]:
        return {stage.name: run.done(stage.name).cost for stage in self.paid}


@dataclass(frozen=True)
class Behind(Input):
    """What an adapter was made with, of one task and language: whatever any stage behind it was given.

    Resolved: `steps`, the optimizer steps on the language's rows that led to the adapter, of each training
    those up to the epoch that was kept; `choosing_steps`, those that were spent to choose its ratio or the
    like; `labels`, how many labelled rows of each split anything behind it looked at; `folds`, how many
    chose, if any did; `made_by`, the stages that it was trained in; and where there are any, `unmoved`, those
    of them of which no epoch was better than their start, and `rates`, the learning rates that dev chose for
    them, its own one first.
    """

    adapter: Stage | Path | None
    task: Task
    language: str

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (self.adapter,) if isinstance(self.adapter, Stage) else ()

    def fingerprint(self, run: RunDirectory) -> dict[str, Any]:
        return self.resolve(run)

    def resolve(self, run: RunDirectory) -> dict[str, Any]:
        made_in = [] if not self.stages else line_of(self.stages[0], lambda stage: run.chosen(stage.name))
        names = {stage.name for stage in made_in}
        steps, choosing, labels, folds, unmoved = 0, 0, dict[str, int](), 0, list[str]()
        for stage in behind(*self.stages):
            rows = [one for one in stage.inputs if isinstance(one, Rows) and self._is_own(one)]
            folds = max([folds, *(one.fold.of for one in rows if one.fold)])
            for found in (one for several in rows for one in several.each):
                # a limit takes the first rows, so that the longest holds the others
                labels[found.split] = max(labels.get(found.split, 0), len(found.resolve(run)))
            if any(found.split == "train" for found in rows):
                taken = run.done(stage.name).steps
                if stage.name in names:
                    kept = _kept(run, stage, rows, taken)
                    steps += kept
                    if taken and not kept:
                        unmoved.append(stage.name)
                else:
                    choosing += taken
        about = {"labels": labels, "folds": folds, "made_by": sorted(names)}
        searched = [stage for stage in made_in if stage.given.get("of") == "learning_rate"]
        rates = {stage.name: run.chosen(stage.name) for stage in searched}
        seldom = {"unmoved": sorted(unmoved), "rates": rates}  # left out, so that older runs stay as they are
        about |= {name: value for name, value in seldom.items() if value}
        return {"steps": steps, "choosing_steps": choosing, **about}

    def _is_own(self, rows: Rows) -> bool:
        return rows.language == self.language and rows.task == self.task


def _kept(run: RunDirectory, stage: Stage, rows: Sequence[Rows], taken: int) -> int:
    """Of a stage's steps those up to the epoch that was kept; the others led to nothing."""
    training, folder = stage.given.get("training"), run.path(stage.name)
    if not taken or not isinstance(training, Training) or not (folder / DevLosses.FILE).exists():
        return taken
    losses = DevLosses.read(folder)
    if losses.best_epoch == len(losses.by_epoch) - 1:  # or an average of all, which has one loss
        return taken
    trained_on = sum(len(found.resolve(run)) for found in rows if found.split == "train")
    return losses.best_epoch * training.steps_per_epoch(trained_on)


def line_of(adapter: Stage, chosen: Callable[[Stage], PruneRatio]) -> list[Stage]:
    """The stages that an adapter was trained in, its own included: not those that only chose something.

    Args:
        chosen: What a stage with several points chose among them.
    """
    found, todo = list[Stage](), [adapter]
    while todo:
        stage = todo.pop()
        found.append(stage)
        if (points := stage.given.get("points")) is not None:
            at = chosen(stage)
            todo += [made for point, made in points.items() if point == at]
        else:
            begun = [stage.given.get(key) for key in ("start", "adapter", "adapters")]
            todo += [one for one in inside(tuple(begun)) if isinstance(one, Stage)]
    return found


def folder_digest(name: str) -> str | None:
    """A hash that tells a model folder from what it held before, in milliseconds; None for other names.

    Whatever transformers may read counts: configs and tokenizers whole, large files by their size and by
    64 KiB at each of 64 places. Hidden files and Markdown do not.
    """
    folder = Path(name)
    if not folder.is_dir():
        return None
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix == ".md" or not path.is_file():
            continue
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for place in range(64) if size > 2**22 else ():
                file.seek(place * size // 64)
                found.update(file.read(2**16))
            if size <= 2**22:
                found.update(file.read())
    return found.hexdigest()
