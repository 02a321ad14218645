"""What the stages share: examples of a side, the backbone, and what a result depends on."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from grasp_lora.config import Config, Control, Side, Training
from grasp_lora.data.find import find_task
from grasp_lora.errors import GraspError
from grasp_lora.lm.backbone import Backbone, load_backbone, resolve_dtype
from grasp_lora.lm.batches import Encoded, TargetCollator, encode, lost_targets
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.lm.packaged.backbones import resolve_backbone
from grasp_lora.lm.training import TrainSettings
from grasp_lora.metrics.bertscore import BERTSCORE
from grasp_lora.metrics.scoring import METRICS
from grasp_lora.stages.run_directory import RunDirectory, digest
from grasp_lora.tasks.example import Example
from grasp_lora.tasks.task import Task, check_disjoint

__all__ = [
    "Inputs",
    "adapter_digest",
    "adapter_folder",
    "fingerprint",
    "flat",
    "folder_digest",
    "settings",
]

logger = logging.getLogger(__name__)


class Inputs:
    """Reads a config's data and model on demand, and names them for `done.json`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._said: set[str] = set()
        self.task: Task = config.task if isinstance(config.task, Task) else find_task(config.task)
        self._splits: dict[tuple[str, str], list[Example]] = {}

    def examples(self, side: Side, split: str, limit: int | None = None) -> list[Example]:
        """A split of one side's language, at most `limit` examples.

        Raises:
            GraspError: The task has no such split, or fewer examples than the micro-dev needs.
        """
        key = (side.language, split)
        if key not in self._splits:
            self._splits[key] = self.task.examples(side.language, split)
        return self._splits[key][:limit]

    def control(self, method: str) -> Control:
        """The controller's settings: a variant's own, or those of every other method."""
        return self.config.variants.get(method, self.config.control)

    def micro_dev(self, wanted: int) -> list[Example]:
        """m examples for the controller; a smaller set is an error, never made up from dev."""
        found = self.examples(self.config.target, "micro_dev", wanted)
        if len(found) < wanted:
            raise GraspError(
                f"the micro_dev split of '{self.config.target.language}' has {len(found)} examples, "
                f"the controller's micro_dev asks for {wanted}"
            )
        return found

    def check_target_splits(self) -> None:
        """Train, dev, micro-dev and test of the target share nothing, and no source example is held out."""
        target, source = self.config.target, self.config.source
        splits = ("dev", "micro_dev", "test") if self.config.controlled else ("dev", "test")
        held_out = {name: self.examples(target, name) for name in splits}
        check_disjoint({"target train": self.examples(target, "train"), **held_out})
        if source.adapter is None:
            check_disjoint({"source train": self.examples(source, "train"), **held_out})

    @property
    def dtype(self) -> str:
        """The backbone's number format here: what `auto` stands for depends on the device."""
        return resolve_dtype(self.config.dtype, self.config.device)

    def backbone(self) -> Backbone:
        config = self.config
        loaded = load_backbone(
            config.backbone, dtype=config.dtype, device=config.device, revision=config.revision
        )
        self._say(f"{config.backbone}: {self.dtype} on {next(loaded.model.parameters()).device}")
        return loaded

    def _say(self, message: str) -> None:
        if message and message not in self._said:
            self._said.add(message)
            logger.info("%s", message)

    @property
    def backbone_path(self) -> str:
        """What transformers loads: a hub name or a folder."""
        return resolve_backbone(self.config.backbone)

    @property
    def max_new_tokens(self) -> int:
        """The config's, or the task's for the target language."""
        return self.config.max_new_tokens or self.task.new_tokens(self.config.target.language)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the answers: the config's, or the task's own.

        Raises:
            GraspError: The task's are unknown, or need an encoder that the config does not name.
        """
        wanted = self.config.evaluation
        if wanted.metrics != "task":
            return wanted.metrics
        for name in self.task.metrics:
            if name not in METRICS:
                raise GraspError(f"the task {self.task.name} asks for the metric '{name}', which is unknown")
            if name in BERTSCORE and wanted.bertscore is None:
                raise GraspError(
                    f"the task {self.task.name} asks for {name}: set evaluation.bertscore (encoder, layer), "
                    "or name other metrics in evaluation.metrics"
                )
        return self.task.metrics

    def encode(self, examples: Sequence[Example], backbone: Backbone) -> list[Encoded]:
        limits = {"max_length": self.config.max_length, "max_new_tokens": self.max_new_tokens}
        encoded = [encode(example, backbone.tokenizer, **limits) for example in examples]
        self._say(lost_targets(encoded))
        return encoded

    def loss(self, examples: Sequence[Example], backbone: Backbone) -> TargetLoss:
        return TargetLoss.from_encoded(
            self.encode(examples, backbone),
            TargetCollator(backbone.tokenizer, backbone.model),
            token_budget=self.config.token_budget,
        )

    def learn_stage(self, method: str = "grasp") -> str:
        """The folder of a learning run: `learn/seedN`, or `learn/METHOD-seedN` for another method."""
        prefix = "" if method == "grasp" else f"{method}-"
        return f"learn/{prefix}seed{self.config.seed}"

    def ratio_stage(self, method: str) -> str:
        """The stage whose `ratio.json` has the method's ratio: a grid's best point, or a learning run."""
        if method in ("grid", "merge_prune"):
            return f"{method}/seed{self.config.seed}"
        return self.learn_stage(method)

    def model_inputs(self) -> dict[str, Any]:
        """What every stage that runs the model depends on."""
        config = self.config
        return {
            "backbone": config.backbone,
            "revision": config.revision,
            "backbone.files": folder_digest(config.backbone),
            "dtype": self.dtype,
            "max_length": config.max_length,
            "max_new_tokens": self.max_new_tokens,
        }


def settings(training: Training, seed: int) -> TrainSettings:
    """The part of a stage's training settings that the Trainer takes."""
    return TrainSettings(**training.model_dump(exclude={"patience"}), seed=seed)


def fingerprint(examples: Sequence[Example]) -> str:
    """A hash of all that is in the examples, in their order."""
    text = json.dumps([astuple(e) for e in examples])
    return hashlib.sha256(text.encode()).hexdigest()


def flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"training.epochs": 1, ...}`: one level of keys, as an error message names them."""
    return {f"{prefix}.{key}": value for key, value in values.items()}


def adapter_digest(folder: Path) -> str:
    """The hash of an adapter: its weights, its config (the scaling is there), and what it was merged from.

    Raises:
        GraspError: There is none; the message says what to do.
    """
    try:
        found = [digest(folder / name) for name in ("adapter_model.safetensors", "adapter_config.json")]
    except FileNotFoundError as error:
        raise GraspError(f"{folder} holds no adapter yet: run its stage first, or `grasp run`") from error
    if (folder / "parts.json").exists():
        found.append(digest(folder / "parts.json"))
    return hashlib.sha256(" ".join(found).encode()).hexdigest()


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


def adapter_folder(run: RunDirectory, side: Side) -> Path:
    """Where the side's adapter is or will be."""
    return side.adapter or run.path(f"adapters/{side.language}")
