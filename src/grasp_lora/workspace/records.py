"""The files of a run directory: each has one type here that writes and reads it; an evaluation's in `rows`.

What rooms below write on their own account has its name there: `control.rounds`, `lm.logs`, `merging`.
Nothing here imports torch, so that who only looks at a run starts at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter

from grasp_lora.control.rounds import TIMINGS_FILE
from grasp_lora.cost import Cost
from grasp_lora.errors import GraspError, fault
from grasp_lora.lm.logs import TENSORBOARD_FOLDER, TRAIN_LOG_FILE
from grasp_lora.lm.measured import Deployment
from grasp_lora.ratios import PruneRatio
from grasp_lora.workspace.files import write_json

__all__ = [
    "CONFIG_FILE",
    "DRAWS_FOLDER",
    "ENVIRONMENT_FILE",
    "EVALUATIONS",
    "LOGS",
    "MASK_FILE",
    "REPORT",
    "SUMMARY_FILE",
    "SURVIVOR_FOLDER",
    "Begun",
    "DevLosses",
    "Done",
    "Importance",
    "LearnedRatio",
    "Maker",
    "MeasuredDeployment",
    "Pruned",
    "RankCheck",
    "Record",
    "RunPlan",
    "Trial",
    "Weights",
]

CONFIG_FILE = "config.yaml"  # the resolved config
ENVIRONMENT_FILE = "env.json"  # versions and hardware
MASK_FILE = "mask.safetensors"  # True = keep, by parameter name
SUMMARY_FILE = "summary.md"
EVALUATIONS = "eval"  # with a folder METHOD/seedN for each evaluated adapter
REPORT = "report"
SURVIVOR_FOLDER = "survivor"  # of halving: the training that goes on
DRAWS_FOLDER = "draws"  # with a folder for each further draw, which is as the run's own
LOGS = (TIMINGS_FILE, TRAIN_LOG_FILE, TENSORBOARD_FOLDER)
"""Differ between equal runs, since they say when something was."""


@cache
def _types(cls: Any) -> TypeAdapter[Any]:
    """Made once: a schema takes longer to make than a file to read."""
    return TypeAdapter(cls)


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
            kind: Any = cls
            read: Self = _types(kind).validate_json(path.read_bytes())
            return read
        except FileNotFoundError:
            raise GraspError(f"{path} is missing: run that stage first, or `grasp run`") from None
        except (OSError, ValueError) as error:
            why = fault(error)
            raise GraspError(f"{path} is damaged ({why}): make that stage again, with --force") from None


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
    commits: Mapping[str, str] = field(default_factory=dict)
    """Of the backbones that it loaded from the hub, whatever branch or tag was asked for."""

    def __post_init__(self) -> None:
        if not all(Path(file).parts for file in self.outputs):
            raise ValueError("an output without a name")

    @property
    def cost(self) -> dict[str, Any]:
        """By the names of `Cost`."""
        return {f.name: getattr(self, f.name) for f in fields(Cost)}


@dataclass(frozen=True, slots=True)
class Begun(Record):
    """Of a stage that is not finished: what it is, so that only the same one goes on from its checkpoint."""

    FILE: ClassVar[str] = ".begun.json"  # hidden: the folder is empty to who writes an adapter

    work: str
    format: int
    inputs: Mapping[str, Any]
    """As those of `Done`."""


@dataclass(frozen=True, slots=True)
class Maker(Record):
    """The process that makes the run; the file is there as long as it does, or was killed."""

    FILE: ClassVar[str] = "process.json"

    pid: int
    host: str
    since: str
    """Local time."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@dataclass(frozen=True, slots=True)
class RunPlan(Record):
    """What a whole run makes, for who watches it; nothing else depends on it."""

    FILE: ClassVar[str] = "plan.json"

    passes: Mapping[str, int]
    """Stage -> example passes at most, in the order in which they are made."""
    methods: Sequence[str] = ()
    """That are evaluated."""
    works: Mapping[str, str] = field(default_factory=dict)
    """Stage -> the name of its work."""


@dataclass(frozen=True, slots=True)
class DevLosses(Record):
    """The dev loss before the first step and after each epoch; `best_epoch` (0 is the start) was kept.

    Where nothing was kept of several, the one dev loss there is: of the average of so many epochs, or of what
    was not trained.
    """

    FILE: ClassVar[str] = "dev_losses.json"

    by_epoch: Sequence[float]
    best_epoch: int
    averaged: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.best_epoch < len(self.by_epoch):
            raise ValueError(f"best_epoch {self.best_epoch} of {len(self.by_epoch)} losses")

    @property
    def best(self) -> float:
        return self.by_epoch[self.best_epoch]


@dataclass(frozen=True, slots=True)
class Pruned(Record):
    """What an adapter was pruned at and to: by a ratio, or modules by a threshold of their importance."""

    FILE: ClassVar[str] = "pruned.json"

    p: PruneRatio | None = None
    share_by_unit: Mapping[str, float] = field(default_factory=dict)
    """Under a fixed mask."""
    norm_by_unit: Mapping[str, float] = field(default_factory=dict)
    """The share of the unit's squared norm that a fixed mask took away."""
    threshold: float | None = None
    share: float | None = None
    """Of all entries; where every step pruned, by the last one before the epoch that was kept."""

    @classmethod
    def of(cls, folder: Path | None) -> Self:
        """Of the adapter in `folder`; all None where nothing pruned it."""
        return cls.read(folder) if folder is not None and (folder / cls.FILE).exists() else cls()


@dataclass(frozen=True, slots=True)
class Importance(Record):
    """Each unit's mean importance (ALM Fig. 5).

    Under a fixed mask its mean magnitude; where every step pruned, its score at the last step of the epoch
    that was kept, of modules what the threshold was compared with.
    """

    FILE: ClassVar[str] = "importance.json"

    by_unit: Mapping[str, float]
    """`SITE.lora_A[ADAPTER]` and `.lora_B`, of modules `SITE[ADAPTER]`; sites name layer and projection."""


@dataclass(frozen=True, slots=True)
class LearnedRatio(Record):
    """A ratio that was found: by a controller, a grid or Optuna, which leave different things beside it; or a
    threshold or a learning rate, by a grid of them.
    """

    FILE: ClassVar[str] = "ratio.json"

    p: PruneRatio | None = None
    adapters: Sequence[str] = ()
    """Whose the ratios are, where a controller learned one for each."""
    threshold: float | None = None
    learning_rate: float | None = None
    reward: float | None = None
    rule: str | None = None
    rounds: int | None = None
    warnings: Sequence[str] = ()
    """What the log says against a learned ratio."""
    dev_loss: Any = None
    """Optuna's best, or a grid's by ratio or threshold."""
    dev_score: Any = None
    """A grid's, where the metric that `rule` names chose."""
    trials: int | None = None
    pruned: int | None = None
    optuna: str | None = None

    @property
    def found(self) -> PruneRatio:
        """Whichever of these it is: where a ratio was chosen as well as a rate, the ratio."""
        for found in (self.p, self.threshold, self.learning_rate):
            if found is not None:
                return found
        raise GraspError(f"{self.FILE} has neither a ratio nor a threshold")

    def write(self, folder: Path) -> None:
        write_json(
            folder / self.FILE, {key: value for key, value in asdict(self).items() if value not in (None, ())}
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One of Optuna's: its ratio and the dev loss by epoch, one line of `trials.jsonl`."""

    FILE: ClassVar[str] = "trials.jsonl"

    p: PruneRatio
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
