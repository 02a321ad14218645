"""What the stages of a process share: tasks, their rows, the backbone."""

import hashlib
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.lm.backbone import Backbone, load_backbone
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import (
    Encoded,
    Limits,
    check_embedded,
    check_fit,
    encode,
    lost_targets,
)
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.lm.shown import Shown
from grasp_lora.merging.hub import ADAPTER_FILES
from grasp_lora.merging.parts import PARTS_FILE
from grasp_lora.paths import digest
from grasp_lora.stopping import Stopping
from grasp_lora.tasks.example import Example, examples_digest
from grasp_lora.tasks.lazy import FEW, joined, mapped, picked
from grasp_lora.tasks.task import Task
from grasp_lora.workspace.inputs import Model, Rows
from grasp_lora.workspace.records import Pruned

__all__ = ["Resources"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Resources:
    """Loads data and models on demand, once where that is safe."""

    _tasks: dict[int, tuple[Task, str]] = field(default_factory=dict)
    _splits: dict[tuple[str, str, str], Sequence[Example]] = field(default_factory=dict)
    _digests: dict[tuple[Any, ...], str] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)
    checked: set[str] = field(default_factory=set)
    """What was tried before a run, so that it is tried once."""
    checkpoint_every: int | None = None
    """Optimizer steps; None: trainings leave no checkpoints. It changes no result."""
    report_to: Sequence[str] | None = None
    """Whom trainings report to; see `build_trainer`. It changes no result."""
    run_name: str = ""
    """What they call the stage at work: the run's name and its own."""
    stopping: Stopping = field(default_factory=Stopping)
    """Whether somebody asked to end."""
    shown: Shown = field(default_factory=Shown)
    """Who shows how far the stages are."""
    commits: dict[str, str] = field(default_factory=dict)
    """Backbones that were loaded from the hub, and their commits there."""

    def examples(self, rows: Rows) -> Sequence[Example]:
        """What the rows stand for.

        Raises:
            GraspError: There is no such split, or it has too few rows.
        """
        found = self._drawn(rows) if rows.draw else self._first(rows)
        if len(found) < rows.at_least:
            raise GraspError(
                f"the {rows.split} split of '{rows.language}' has {len(found)} examples, "
                f"the controller's {rows.split} asks for {rows.at_least}"
            )
        found = joined(found, *map(self.examples, rows.also))
        return found if rows.fold is None else rows.fold.part(found)

    def _split(self, rows: Rows) -> Sequence[Example]:
        key = (self._task(rows.task), rows.language, rows.split)
        if key not in self._splits:
            self._splits[key] = rows.task.examples(rows.language, rows.split)
        return self._splits[key]

    def _first(self, rows: Rows) -> Sequence[Example]:
        found = self._split(rows)[: rows.limit]
        if rows.split == "train" and len(found) < (rows.limit or 0):
            found = self._more(rows, found)
        return found

    def _drawn(self, rows: Rows) -> Sequence[Example]:
        """A sample of train and pool, as large as what stands in for it."""
        own = self._split(rows)
        wanted = len(own) if rows.limit is None else rows.limit
        pool = self._split(replace(rows, split="pool")) if "pool" in rows.splits else []
        if len(own) + len(pool) <= wanted:
            raise GraspError(
                f"target.draws samples {wanted} training rows of '{rows.language}', and there are no more: "
                "prepare the task with a pool, or set target.train_examples to fewer"
            )
        places = range(len(own) + len(pool))
        return picked(joined(own, pool), random.Random(f"draw {rows.draw}").sample(places, wanted))

    def rows_digest(self, rows: Rows) -> str:
        """A hash of all that is in the rows, in their order, made once: many stages are given the same."""
        key = (self._key(rows), tuple(map(self._key, rows.also)), rows.fold)
        if key not in self._digests:
            self._digests[key] = examples_digest(self.examples(rows))
        return self._digests[key]

    def _key(self, rows: Rows) -> tuple[Any, ...]:
        return self._task(rows.task), rows.language, rows.split, rows.limit, rows.draw

    def _task(self, task: Task) -> str:
        """Equal for equal tasks: several experiments each load their own."""
        if id(task) not in self._tasks:
            self._tasks[id(task)] = task, task.model_dump_json()
        return self._tasks[id(task)][1]

    def _more(self, rows: Rows, train: Sequence[Example]) -> Sequence[Example]:
        """Where more training rows are wanted than the split has: those of the pool after them."""
        if "pool" in rows.splits:
            pool = self.examples(replace(rows, split="pool", limit=None))
            train = joined(train, pool)[: rows.limit]
        if len(train) < (rows.limit or 0):
            self.say(f"{rows.task.name}: {rows.language} has {len(train)} training rows, not {rows.limit}")
        return train

    def backbone(self, model: Model) -> Backbone:
        """A new one each time: PEFT edits a model in place."""
        loaded = load_backbone(**asdict(model))
        if loaded.commit is not None:
            self.commits[model.name] = loaded.commit
        how = ", ".join(filter(None, [model.number_format, model.quantization]))
        self.say(f"{model.name}: {how} on {next(loaded.model.parameters()).device}")
        return loaded

    def encode(self, examples: Sequence[Example], backbone: Backbone, limits: Limits) -> Sequence[Encoded]:
        """Token ids of the examples, where these are many as they are asked for; how many answers lose their
        end is said once.

        Raises:
            GraspError: An example does not fit, also of many; or the backbone does not embed a token, of many
                when it is asked for.
        """

        def one(example: Example) -> Encoded:
            encoded = encode(example, backbone.tokenizer, limits)
            check_embedded([encoded], backbone.model)
            return encoded

        encoded = mapped(examples, one)
        if isinstance(encoded, list):
            self.say(lost_targets(encoded))
            return encoded
        check_fit(examples, backbone.tokenizer, limits)
        if lost := lost_targets(encoded[:FEW]):
            self.say(f"in the first {FEW:,} rows, {lost}")
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
