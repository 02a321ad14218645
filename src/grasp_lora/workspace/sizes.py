"""Memory and disk of stages that were not made, from the backbone's shapes and the longest rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from grasp_lora.cost import measure
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora
from grasp_lora.lm.backbone import pick_device
from grasp_lora.lm.encoding import Encoded, Limits, encode
from grasp_lora.lm.footprint import Batch, Shapes, shapes_of, tokenizer_of
from grasp_lora.lm.training import Training
from grasp_lora.merging.hub import ADAPTER_FILES
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Model, Rows
from grasp_lora.workspace.records import REPORT
from grasp_lora.workspace.stage import Stage, inside

__all__ = ["Lighter", "Sizes"]

Lighter = Literal[
    "training.batch_size",
    "token_budget",
    "max_length",
    "training.gradient_checkpointing",
    "dtype",
    "quantization",
]
"""A setting of which less would need less memory: half of it where it is a number."""

LONGEST = 32  # rows that are encoded to know the longest, those with the most characters
NOTES = 20_000  # bytes of a stage's card, records and logs
DRAWN = 1_000_000  # bytes of a report, most of it figures
PER_ROW, PER_ANSWER = 100, 2_000  # bytes of an evaluation
CHECKPOINT = 5  # times the adapter: it, its moments, the best epoch's
CHECKPOINTS = 2  # of the stage that is being made: one is written before the other goes
BEGUN_FROM = ("start", "adapter", "adapters", "points")  # under these keys a stage is given adapters


class Sizes:
    """Of one run's stages."""

    def __init__(self, run: RunDirectory, stages: Sequence[Stage]) -> None:
        self._run = run
        given = [value for stage in stages for value in inside(stage.given)]
        self._model = next((value for value in given if isinstance(value, Model)), None)
        self._adapters = {
            one.name
            for stage in stages
            for key in BEGUN_FROM
            for one in inside(stage.given.get(key))
            if isinstance(one, Stage)
        }
        self._lengths: dict[Any, list[Encoded]] = {}
        with measure() as cost:
            lora = next((value for value in given if isinstance(value, Lora)), None)
            model = self._model
            self._shapes = None if model is None else shapes_of(model.name, lora, **_how(model))
            self._tokenizer = None if model is None else tokenizer_of(model.name, model.revision)
        self._process = cost.peak_memory_bytes

    def memory(self, to_make: Sequence[Stage], lighter: Lighter | None = None) -> tuple[int | None, int]:
        """Bytes that the process needs at most, and bytes of the GPU; None where the shapes are not known.

        Args:
            lighter: As if this setting were lower, or in force.
        """
        shapes, model = self._shapes, self._model
        working = [stage for stage in to_make if isinstance(stage.given.get("model"), Model)]
        if not working:
            return self._process, 0
        if shapes is None or model is None:
            return None, 0
        if lighter == "dtype":
            shapes = replace(shapes, each=min(shapes.each, 2))
        if lighter == "quantization":
            shapes = replace(shapes, quantization="nf4")
        most = max(self._working(stage, shapes, lighter) for stage in working)
        if pick_device(model.device).type == "cuda":
            return self._process + shapes.parameters * shapes.stored, shapes.weights + most
        return self._process + shapes.weights + max(shapes.loading, most), 0

    def settings_to_lower(self, to_make: Sequence[Stage]) -> list[Lighter]:
        """Those that there are, and that are not as low as they can be."""
        trainings = [one for stage in to_make for one in inside(stage.given) if isinstance(one, Training)]
        high = {
            "training.batch_size": any(training.batch_size > 1 for training in trainings),
            "training.gradient_checkpointing": any(not one.gradient_checkpointing for one in trainings),
            "dtype": self._shapes is not None and self._shapes.each > 2,
            "quantization": self._model is not None and self._model.quantization is None,
        }
        return [name for name in get_args(Lighter) if high.get(name, True)]

    def _working(self, stage: Stage, shapes: Shapes, lighter: Lighter | None) -> int:
        """Bytes of a stage's largest batch, and of what is trained."""
        adapter, limits = self.adapter(stage), stage.given.get("limits") or Limits()
        needs, training = [0], stage.given.get("training")
        for key, value in stage.given.items():
            for rows in (one for one in inside(value) if isinstance(one, Rows)):
                longest = self._longest(rows, limits)
                if isinstance(training, Training) and key in ("train", "beside"):
                    several = min(training.batch_size, len(rows.resolve(self._run)))
                    if lighter == "training.batch_size":
                        several = max(1, several // 2)
                    several *= 2 if stage.given.get("beside") else 1
                    often = training.gradient_checkpointing or lighter == "training.gradient_checkpointing"
                    batch = _batch(longest, several, limits, lighter)
                    needs.append(shapes.training(adapter, batch, checkpointing=often))
                else:
                    budget = limits.token_budget // (2 if lighter == "token_budget" else 1)
                    fitting = max(1, budget // max(map(len, longest), default=1))
                    several = min(fitting, len(rows.resolve(self._run)))
                    needs.append(shapes.looking(adapter, _batch(longest, several, limits, lighter)))
        return max(needs)

    def _longest(self, rows: Rows, limits: Limits) -> list[Encoded]:
        """The longest rows, encoded; without a tokenizer, as long as the limits let them be."""
        examples = rows.resolve(self._run)
        key = (self._run.resources.rows_digest(rows), limits)
        if key not in self._lengths:
            longest = sorted(examples, key=lambda one: -len(one.prompt) - len(one.target))[:LONGEST]
            try:
                if self._tokenizer is None:
                    raise GraspError("there is no tokenizer")
                self._lengths[key] = [encode(one, self._tokenizer, limits) for one in longest]
            except GraspError:  # a run says so
                full = Encoded((0,) * limits.max_length, limits.max_new_tokens or limits.max_length)
                self._lengths[key] = [full]
        return self._lengths[key]

    def disk(self, to_make: Sequence[Stage]) -> int | None:
        """Bytes that the stages leave, and the checkpoints of the largest; None without shapes."""
        if self._shapes is None and any(stage.name in self._adapters for stage in to_make):
            return None
        trained = [self.adapter(stage) for stage in to_make if "training" in stage.given]
        checkpoints = CHECKPOINTS * CHECKPOINT * max(trained, default=0)
        return checkpoints + sum(map(self._left_by, to_make))

    def _left_by(self, stage: Stage) -> int:
        if stage.name == REPORT:
            return DRAWN
        if "answers" in stage.given:
            rows = sum(len(one.resolve(self._run)) for one in inside(stage.given) if isinstance(one, Rows))
            test = len(stage.given["test"].resolve(self._run))
            answers = stage.given["answers"]
            return NOTES + PER_ROW * rows + PER_ANSWER * (test if answers is None else min(test, answers))
        if stage.name not in self._adapters:
            return NOTES
        adapter = self.adapter(stage)
        masked = stage.given.get("mask") is not None or "ratio" in stage.given or "points" in stage.given
        return NOTES + adapter + (adapter // 4 if masked else 0)  # of each float32 a byte of the mask

    def adapter(self, value: Any) -> int:
        """Bytes of the adapter that a stage trains or leaves, or that a value stands for."""
        if isinstance(value, Lora):
            return 4 * (self._shapes.adapter if self._shapes else 0)
        if isinstance(value, Path):
            return sum(file.stat().st_size for name in ADAPTER_FILES if (file := value / name).is_file())
        if isinstance(value, Stage):
            if "points" in value.given:
                return max(map(self.adapter, value.given["points"].values()), default=0)
            begun = [value.given[key] for key in BEGUN_FROM if value.given.get(key) is not None]
            return max(map(self.adapter, begun), default=0)
        if isinstance(value, tuple):  # one at a time
            return max(map(self.adapter, value), default=0)
        if isinstance(value, Mapping):  # merged, which adds the ranks
            return sum(map(self.adapter, value.values()))
        return 0


def _batch(longest: Sequence[Encoded], several: int, limits: Limits, lighter: Lighter | None) -> Batch:
    """The largest of these rows; of rows of at most half of `max_length`, where that is asked."""
    batch = Batch.of(longest, several)
    length = min(batch.length, limits.max_length // 2) if lighter == "max_length" else batch.length
    return replace(
        batch, tokens=several * length, targets=min(batch.targets, several * length), length=length
    )


def _how(model: Model) -> dict[str, Any]:
    return {key: getattr(model, key) for key in ("dtype", "device", "revision", "quantization")}
