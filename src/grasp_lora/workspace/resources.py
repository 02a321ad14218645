"""What the stages of a process share: tasks, their rows, the backbone; and the inputs that stand for them."""

import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.lm.backbone import Backbone, DType, load_backbone, resolve_dtype
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Encoded, Limits, encode, lost_targets
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.lm.packaged.backbones import resolve_backbone
from grasp_lora.merging.parts import PARTS_FILE
from grasp_lora.tasks.example import Example, examples_digest
from grasp_lora.tasks.task import Task
from grasp_lora.workspace.directory import RunDirectory, digest
from grasp_lora.workspace.records import ADAPTER_FILES, Pruned
from grasp_lora.workspace.stage import Input, Stage, behind, inside

__all__ = ["Behind", "Bill", "Encoder", "Model", "Resources", "Rows"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows(Input):
    """A split of one language of a task, or its first `limit` rows; where train has fewer, then the pool's.

    Resolved: examples.

    Attributes:
        at_least: Fewer than so many rows are an error.
    """

    task: Task
    language: str
    split: str
    limit: int | None = None
    at_least: int = 0

    @property
    def splits(self) -> Collection[str]:
        """Those that the task has of the language."""
        return self.task.languages.get(self.language, {}).keys()

    def fingerprint(self, run: RunDirectory) -> str:
        """A hash of all that is in the examples, in their order."""
        return run.resources.rows_digest(self)

    def resolve(self, run: RunDirectory) -> list[Example]:
        return run.resources.examples(self)


@dataclass(frozen=True)
class Model(Input):
    """A backbone by name, and how it is loaded. Resolved: itself; `Resources.backbone` loads it."""

    name: str
    revision: str | None = None
    dtype: DType = "auto"
    device: str = "auto"

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

    Resolved: `steps`, the optimizer steps on the language's rows that led to the adapter; `choosing_steps`,
    those that were spent to choose its ratio or the like; `labels`, how many labelled rows of each split
    anything behind it looked at; and `made_by`, the stages that it was trained in.
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
        line = {stage.name: stage for stage in self._line(run)}
        steps, choosing, labels = 0, 0, dict[str, int]()
        for stage in behind(*self.stages):
            rows = [v for v in inside(stage.given) if isinstance(v, Rows) and self._is_own(v)]
            for found in rows:  # a limit takes the first rows, so that the longest holds the others
                labels[found.split] = max(labels.get(found.split, 0), len(found.resolve(run)))
            if any(found.split == "train" for found in rows):
                taken = run.done(stage.name).steps
                steps, choosing = (
                    (steps + taken, choosing) if stage.name in line else (steps, choosing + taken)
                )
        return {"steps": steps, "choosing_steps": choosing, "labels": labels, "made_by": sorted(line)}

    def _line(self, run: RunDirectory) -> list[Stage]:
        """The stages from which the adapter was trained on: not those that only chose something."""
        line, todo = list[Stage](), list(self.stages)
        while todo:
            stage = todo.pop()
            line.append(stage)
            if (points := stage.given.get("points")) is not None:
                at = run.chosen(stage.name)
                todo += [made for point, made in points.items() if point == at]
            else:
                begun = [stage.given.get(key) for key in ("start", "adapter", "adapters")]
                todo += [one for one in inside(tuple(begun)) if isinstance(one, Stage)]
        return line

    def _is_own(self, rows: Rows) -> bool:
        return rows.language == self.language and rows.task == self.task


@dataclass(slots=True)
class Resources:
    """Loads data and models on demand, once where that is safe."""

    _tasks: dict[int, tuple[Task, str]] = field(default_factory=dict)
    _splits: dict[tuple[str, str, str], list[Example]] = field(default_factory=dict)
    _digests: dict[tuple[str, str, str, int | None], str] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    checked: set[str] = field(default_factory=set)
    """What was tried before a run, so that it is tried once."""

    def examples(self, rows: Rows) -> list[Example]:
        """The rows of a split.

        Raises:
            GraspError: There is no such split, or it has too few rows.
        """
        key = (self._task(rows.task), rows.language, rows.split)
        if key not in self._splits:
            self._splits[key] = rows.task.examples(rows.language, rows.split)
        found = self._splits[key][: rows.limit]
        if rows.split == "train" and len(found) < (rows.limit or 0):
            found = self._more(rows, found)
        if len(found) < rows.at_least:
            raise GraspError(
                f"the {rows.split} split of '{rows.language}' has {len(found)} examples, "
                f"the controller's {rows.split} asks for {rows.at_least}"
            )
        return found

    def rows_digest(self, rows: Rows) -> str:
        """A hash of all that is in the rows, in their order, made once: many stages are given the same."""
        key = (self._task(rows.task), rows.language, rows.split, rows.limit)
        if key not in self._digests:
            self._digests[key] = examples_digest(self.examples(rows))
        return self._digests[key]

    def _task(self, task: Task) -> str:
        """Equal for equal tasks: several experiments each load their own."""
        if id(task) not in self._tasks:
            self._tasks[id(task)] = task, task.model_dump_json()
        return self._tasks[id(task)][1]

    def _more(self, rows: Rows, train: list[Example]) -> list[Example]:
        """Where more training rows are wanted than the split has: those of the pool after them."""
        if "pool" in rows.splits:
            pool = self.examples(replace(rows, split="pool", limit=None))
            train = (train + pool)[: rows.limit]
        if len(train) < (rows.limit or 0):
            self.say(f"{rows.task.name}: {rows.language} has {len(train)} training rows, not {rows.limit}")
        return train

    def backbone(self, model: Model) -> Backbone:
        """A new one each time: PEFT edits a model in place."""
        loaded = load_backbone(model.name, dtype=model.dtype, device=model.device, revision=model.revision)
        self.say(f"{model.name}: {model.number_format} on {next(loaded.model.parameters()).device}")
        return loaded

    def encode(self, examples: Sequence[Example], backbone: Backbone, limits: Limits) -> list[Encoded]:
        """Token ids of the examples; how many answers lose their end is said once."""
        encoded = [encode(example, backbone.tokenizer, limits) for example in examples]
        self.say(lost_targets(encoded))
        return encoded

    def loss(self, examples: Sequence[Example], backbone: Backbone, limits: Limits) -> TargetLoss:
        """Their mean loss as a function of the model."""
        return TargetLoss.from_encoded(
            self.encode(examples, backbone, limits),
            TargetCollator(backbone.tokenizer, backbone.model),
            token_budget=limits.token_budget,
        )

    def adapter_digest(self, folder: Path) -> str:
        """The hash of an adapter: its weights, its config (the scaling is there), what it was merged from and
        pruned at.

        Raises:
            GraspError: There is none.
        """
        try:
            found = [digest(folder / name) for name in sorted(ADAPTER_FILES, reverse=True)]
        except FileNotFoundError as error:
            raise GraspError(f"{folder} holds no adapter: {Path(error.filename).name} is missing") from error
        found += [digest(folder / name) for name in (PARTS_FILE, Pruned.FILE) if (folder / name).exists()]
        return hashlib.sha256(" ".join(found).encode()).hexdigest()

    def say(self, message: str) -> None:
        """Log it, once."""
        if message and message not in self._said:
            self._said.add(message)
            logger.info("%s", message)


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
