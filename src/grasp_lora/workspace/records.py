"""The files of a run directory: each has one type here that writes and reads it.

What rooms below write on their own account has its name there: `control.rounds`, `lm.training`, `merging`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter

from grasp_lora.control.rounds import TIMINGS_FILE
from grasp_lora.cost import Cost
from grasp_lora.errors import GraspError
from grasp_lora.lm.deployment import Deployment
from grasp_lora.lm.training import TENSORBOARD_FOLDER, TRAIN_LOG_FILE
from grasp_lora.merging.reading import CONFIG_FILE as ADAPTER_CONFIG
from grasp_lora.merging.reading import WEIGHTS_FILE
from grasp_lora.workspace.files import read_lines, write_json, write_lines

__all__ = [
    "ADAPTER_FILES",
    "CONFIG_FILE",
    "ENVIRONMENT_FILE",
    "LOGS",
    "MASK_FILE",
    "SUMMARY_FILE",
    "Answer",
    "DevLosses",
    "Done",
    "LearnedRatio",
    "MeasuredDeployment",
    "Pruned",
    "RankCheck",
    "Row",
    "Trial",
    "Weights",
]

CONFIG_FILE = "config.yaml"  # the resolved config
ENVIRONMENT_FILE = "env.json"  # versions and hardware
MASK_FILE = "mask.safetensors"  # True = keep, by parameter name
SUMMARY_FILE = "summary.md"
ADAPTER_FILES = (ADAPTER_CONFIG, WEIGHTS_FILE)
LOGS = (TIMINGS_FILE, TRAIN_LOG_FILE, TENSORBOARD_FOLDER)
"""Differ between equal runs, since they say when something was."""


class Record:
    """A JSON file with one object; keys that are not there have the defaults of the type."""

    FILE: ClassVar[str]

    def write(self, folder: Path) -> None:
        """Into `folder`, whole or not at all."""
        write_json(folder / self.FILE, asdict(self))  # type: ignore[call-overload]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From `folder`; keys that this version does not know are left out.

        Raises:
            GraspError: It is not there, or is not such a file.
        """
        path = folder / cls.FILE
        try:
            read: Self = TypeAdapter(cls).validate_json(path.read_bytes())
            return read
        except FileNotFoundError:
            raise GraspError(f"{path} is missing: run that stage first, or `grasp run`") from None
        except (OSError, ValueError) as error:
            raise GraspError(f"{path} is damaged ({error}): make that stage again, with --force") from None


@dataclass(slots=True)
class Done(Cost, Record):
    """Written last of all: the stage is whole, and this is what it took."""

    FILE: ClassVar[str] = "done.json"

    work: str = ""
    format: int = 1
    """Of `inputs`; 1 before stages said themselves what they are given."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What the stage was given, flat; see `workspace.stage.fingerprint`."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file."""

    @property
    def cost(self) -> dict[str, Any]:
        """By the names of `Cost`."""
        return {f.name: getattr(self, f.name) for f in fields(Cost)}


@dataclass(frozen=True, slots=True)
class DevLosses(Record):
    """The dev loss before the first step and after each epoch; `best_epoch` (0 is the start) was kept."""

    FILE: ClassVar[str] = "dev_losses.json"

    by_epoch: Sequence[float]
    best_epoch: int

    @property
    def best(self) -> float:
        return self.by_epoch[self.best_epoch]


@dataclass(frozen=True, slots=True)
class Pruned(Record):
    """The ratio that an adapter was trained at, and under a fixed mask each unit's pruned share."""

    FILE: ClassVar[str] = "pruned.json"

    p: float
    share_by_unit: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> float | None:
        """The ratio of the adapter in `folder`, or None where nothing pruned it."""
        return cls.read(folder).p if (folder / cls.FILE).exists() else None


@dataclass(frozen=True, slots=True)
class LearnedRatio(Record):
    """A ratio that was found: by a controller, a grid or Optuna, which leave different things beside it."""

    FILE: ClassVar[str] = "ratio.json"

    p: float
    reward: float | None = None
    rule: str | None = None
    rounds: int | None = None
    dev_loss: Any = None
    """Optuna's best, or a grid's by ratio."""
    trials: int | None = None
    pruned: int | None = None
    optuna: str | None = None

    def write(self, folder: Path) -> None:
        write_json(
            folder / self.FILE, {key: value for key, value in asdict(self).items() if value is not None}
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One of Optuna's: its ratio and the dev loss by epoch, one line of `trials.jsonl`."""

    FILE: ClassVar[str] = "trials.jsonl"

    p: float
    dev_loss: Sequence[float]


@dataclass(frozen=True, slots=True)
class Weights(Record):
    """LoRAHub's: each adapter's weight, the loss with them, and how they were searched."""

    FILE: ClassVar[str] = "weights.json"
    SEARCH_FILE: ClassVar[str] = "search.jsonl"

    weights: Mapping[str, float]
    loss: float
    objective: float
    evaluations: int
    optimiser: str


@dataclass(frozen=True, slots=True)
class RankCheck(Record):
    """Does the reward rank ratios as the dev loss after fine-tuning does? Ratios are keys, as text."""

    FILE: ClassVar[str] = "rank_check.json"

    dev_loss: Mapping[str, float]
    """The grid's, after fine-tuning."""
    rounds: Sequence[Mapping[str, Any]]
    """`step`, `rewards` by ratio, and `rho` against minus the dev losses; None where it is not defined."""


@dataclass(frozen=True)
class MeasuredDeployment(Deployment, Record):
    """What an adapter costs to deploy."""

    FILE: ClassVar[str] = "deployment.json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer: one line of `predictions.jsonl`."""

    FILE: ClassVar[str] = "predictions.jsonl"

    id: str
    prompt_hash: str
    prediction: str
    references: Sequence[str]


@dataclass(frozen=True, slots=True)
class Row:
    """One evaluated adapter: `scores.json`, `predictions.jsonl` and `cost.json` of an evaluation's folder."""

    SCORES_FILE: ClassVar[str] = "scores.json"
    COST_FILE: ClassVar[str] = "cost.json"

    method: str
    seed: int
    dev_loss: float
    test_losses: Sequence[float]
    """Of each test example, in nats per target token."""
    scores: Mapping[str, Mapping[str, Any]]
    """Metric -> the fields of `metrics.score.Score`."""
    answers: Sequence[Answer]
    costs: Mapping[str, Mapping[str, Any]]
    """Stage -> its cost, of the stages that are this method's own."""
    title: str = ""
    task: str = ""
    source: str = ""
    target: str = ""
    adapter: str | None = None
    """Its folder, below the run's where it was made there; None: the bare backbone."""
    p: float | None = None
    steps: int | None = None
    """Optimizer steps on target rows behind the adapter, those of a search for its ratio included."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Labelled target rows that anything behind the adapter looked at, by split."""
    exhaustive: bool = False
    """Its ratio was found by training at every one: what a cheaper search is measured against."""

    @property
    def test_loss(self) -> float:
        return sum(self.test_losses) / len(self.test_losses)

    @property
    def cost(self) -> Cost:
        """Seconds and passes add up over stages that run one after the other; memory peaks do not."""
        return Cost.together([Cost(**one) for one in self.costs.values()])

    def write(self, folder: Path) -> None:
        about = {name: getattr(self, name) for name in ("method", "seed", *_ABOUT)}
        losses = {"dev_loss": self.dev_loss, "test_loss": self.test_loss, "test_losses": self.test_losses}
        metrics = {"metrics": self.scores} if self.scores else {}
        write_json(folder / self.SCORES_FILE, {**about, **losses, **metrics})
        write_lines(folder / Answer.FILE, map(asdict, self.answers))
        write_json(folder / self.COST_FILE, {"total": asdict(self.cost), "stages": self.costs})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From an evaluation's folder, `eval/METHOD/seedN`, whatever version wrote it.

        Raises:
            GraspError: A file is not there, or is not such a file.
        """
        try:
            found = json.loads((folder / cls.SCORES_FILE).read_text(encoding="utf-8"))
            costs = json.loads((folder / cls.COST_FILE).read_text(encoding="utf-8"))
            named = {"method": folder.parent.name, "seed": folder.name.removeprefix("seed")}
            read = {"scores": found.pop("metrics", {}), "costs": costs["stages"]}
            answers = list(read_lines(folder / Answer.FILE))
            row: Self = TypeAdapter(cls).validate_python({**named, **found, **read, "answers": answers})
            return row
        except FileNotFoundError as error:
            raise GraspError(f"{error.filename} is missing: run that stage first, or `grasp run`") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise GraspError(
                f"{folder} holds no evaluation that can be read ({error}): make it again, with --force"
            ) from None


_ABOUT = ("title", "task", "source", "target", "adapter", "p", "steps", "labels", "exhaustive")
