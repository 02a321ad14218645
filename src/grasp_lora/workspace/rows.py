"""An evaluation: what an adapter scored, what was answered, what it cost."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter

from grasp_lora.cost import Cost
from grasp_lora.errors import DAMAGED, GraspError, fault
from grasp_lora.ratios import PerAdapter, PruneRatio
from grasp_lora.workspace.files import read_lines, write_json, write_lines

__all__ = ["Answer", "Row"]

LONGEST = 2000  # bytes of a folder's name, below the run's


@cache
def _types(cls: Any) -> TypeAdapter[Any]:
    """Made once: a schema takes longer to make than a file to read."""
    return TypeAdapter(cls)


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer: one line of `predictions.jsonl`."""

    FILE: ClassVar[str] = "predictions.jsonl"

    id: str
    prompt_hash: str
    prediction: str
    references: Sequence[str]
    prompt: str = ""
    """What was asked; a long one without its middle."""


@dataclass(frozen=True, slots=True)
class Row:
    """One evaluated adapter: `scores.json`, `predictions.jsonl` and `cost.json` of an evaluation's folder."""

    SCORES_FILE: ClassVar[str] = "scores.json"
    COST_FILE: ClassVar[str] = "cost.json"

    method: str
    seed: int
    dev_loss: float | None
    """The mean of `dev_losses`; None where dev was trained on."""
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
    p: PruneRatio | None = None
    threshold: float | None = None
    """Of modules' importance, where that pruned instead of a ratio."""
    pruned_share: float | None = None
    """Of all entries, where something pruned."""
    test_set: str = ""
    """Its name, where it is not the task's own."""
    draw: int = 0
    """Which sample of the training rows; 0: the split's first ones."""
    groups: Sequence[str] = ()
    """Of each test example, what it shares with others, such as a passage; "" is itself alone, () all are."""
    dev_groups: Sequence[str] = ()
    folds: int = 0
    """That chose, where any did."""
    source_losses: Mapping[str, float] = field(default_factory=dict)
    """Source's adapter -> the loss on that source's dev rows."""
    test_rows: str = ""
    """A hash of the test rows: only scores of the same ones can be compared."""
    repeated: str = ""
    """What was done anew with each seed: "adapters", "final", or nothing."""
    steps: int | None = None
    """Optimizer steps on target rows that led to the adapter, of each training those up to the epoch that was
    kept. (Before `choosing_steps`, with those; before `unmoved`, with later epochs'.)"""
    choosing_steps: int | None = None
    """Further ones, spent to choose its ratio."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Labelled target rows that anything behind the adapter looked at, by split."""
    made_by: Sequence[str] = ()
    """The stages that the adapter was trained in, from the first one on."""
    unmoved: Sequence[str] = ()
    """Those of `made_by` that changed nothing: no epoch was better on dev than their start."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Those of `made_by` whose learning rate dev chose, its own one first, and the rates."""
    all_costs: Mapping[str, Mapping[str, Any]] | None = None
    """Stage -> its cost, of all that lies behind the adapter but the sources' adapters, if it is known."""
    dev_losses: Sequence[float] = ()
    """Of each dev example."""
    is_point: bool = False
    """One ratio of several that were looked at: to choose among these would be a search."""
    control_of: str = ""
    """The method that it asks a question about; nobody would deploy it."""
    refit_of: str = ""
    """The method that was trained once more, on all labelled rows."""
    corner: PerAdapter | None = None
    """The ratios of the two adapters of a merge at which training that leads to the same."""
    exhaustive: bool = False
    """Its ratio was found by training at every one: what a cheaper search is measured against."""

    def _check(self) -> None:
        """What the types alone do not say.

        Raises:
            ValueError, TypeError: Costs are none, groups not those of the rows, a folder's name is too
                long, or an answer has no reference.
        """
        for cost in (*self.costs.values(), *(self.all_costs or {}).values()):
            counted = Cost(**cost)
            numbers = [value for value in asdict(counted).values() if value is not None]
            if not all(isinstance(one, int | float) and math.isfinite(one) for one in numbers):
                raise TypeError(f"a cost that is no number: {cost}")
        for name, groups, losses in (
            ("groups", self.groups, self.test_losses),
            ("dev_groups", self.dev_groups, self.dev_losses),
        ):
            if groups and losses and len(groups) != len(losses):
                raise ValueError(f"{len(groups)} {name} of {len(losses)} rows")
        stages = (*self.costs, *(self.all_costs or {}), *self.made_by)
        own = (self.method, f"seed{self.seed}", str(self.draw), self.test_set)
        for name in (*stages, *own, *self.source_losses, self.adapter or ""):
            if len(name.encode()) > LONGEST or any(len(part.encode()) > 255 for part in name.split("/")):
                raise ValueError(f"no folder is called {name[:40]}...")
        if bare := [answer.id for answer in self.answers if not answer.references]:
            raise ValueError(f"the answer to {bare[0]} has no reference")

    @property
    def test_loss(self) -> float:
        return sum(self.test_losses) / len(self.test_losses)

    @property
    def cost(self) -> Cost:
        """Seconds and passes add up over stages that run one after the other; memory peaks do not."""
        return Cost.together([Cost(**one) for one in self.costs.values()])

    @property
    def whole_cost(self) -> Cost | None:
        """Of everything but the sources' adapters; None where it is not known."""
        if self.all_costs is None:
            return None
        return Cost.together([Cost(**one) for one in self.all_costs.values()])

    @property
    def choosing_passes(self) -> int:
        """Of its own cost, what was spent on other stages than those that made the adapter."""
        return sum(Cost(**c).passes for name, c in self.costs.items() if name not in self.made_by)

    @property
    def whole_choosing_passes(self) -> int:
        """The same of everything but the sources' adapters."""
        everything = self.costs if self.all_costs is None else self.all_costs
        return sum(Cost(**c).passes for name, c in everything.items() if name not in self.made_by)

    def write(self, folder: Path) -> None:
        about = {name: getattr(self, name) for name in ("method", "seed", *_ABOUT)}
        losses: dict[str, Any] = {"dev_loss": self.dev_loss, "test_loss": self.test_loss}
        losses |= {"dev_losses": self.dev_losses, "test_losses": self.test_losses}
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
            kind: Any = cls
            row: Self = _types(kind).validate_python({**named, **found, **read, "answers": answers})
            row._check()
            return row
        except FileNotFoundError as error:
            raise GraspError(f"{error.filename} is missing: run that stage first, or `grasp run`") from None
        except DAMAGED as error:
            raise GraspError(
                f"{folder} holds no evaluation that can be read ({fault(error)}): make it again, with --force"
            ) from None


_ABOUT = (
    "title", "task", "source", "target", "adapter", "p", "threshold", "pruned_share", "test_set", "test_rows",
    "draw", "groups", "dev_groups", "folds", "source_losses",
    "repeated", "steps", "choosing_steps", "made_by", "unmoved", "rates", "labels", "all_costs",
    "control_of", "is_point", "refit_of", "corner",
    "exhaustive",
)  # fmt: skip
