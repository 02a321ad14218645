"""The loss over the prune ratio, after one training of all ratios, and what the rows cannot tell apart."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from grasp_lora.control.noise import MARGIN, Z, paired_error
from grasp_lora.errors import GraspError, check_choice, fault
from grasp_lora.ratios import PruneRatio, spread

__all__ = ["CURVE_FILE", "CurveRule", "MeasuredCurve", "Point"]

CURVE_FILE = "curve.json"
CurveRule = Literal["best", "sparsest"]


@dataclass(frozen=True, slots=True)
class Point:
    """A ratio, and the loss of each example under its mask; where the loss tells none, the one mean."""

    p: PruneRatio
    losses: Sequence[float]

    @property
    def mean(self) -> float:
        return math.fsum(self.losses) / len(self.losses)

    @property
    def share(self) -> float:
        """The mean over adapters, by which ratios of several are in an order."""
        return statistics.fmean(spread(self.p, 1))


@dataclass(frozen=True)
class MeasuredCurve:
    """Losses under masks at several ratios, of one set of dense values.

    It shows what these values lose to a mask. It is not what finished training at each ratio gives.

    Attributes:
        points: By rising share.
        margin: Nats; a smaller difference is none.
        groups: Each example's, see `paired_error`; () is a group of its own for each.

    Raises:
        ValueError: There is no point, two of one ratio, points of different examples, or a loss that is not
            a finite number.
    """

    points: Sequence[Point]
    margin: float = MARGIN
    groups: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len({len(point.losses) for point in self.points}) != 1 or not self.points[0].losses:
            raise ValueError("a curve has a point, and each of its points a loss of every example")
        if len({point.p for point in self.points}) < len(self.points):
            raise ValueError("a curve with two points at one ratio")
        if not all(0.0 <= p <= 1.0 for point in self.points for p in spread(point.p, 1)):
            raise ValueError("a curve with a ratio that is none")
        if not all(map(math.isfinite, (loss for point in self.points for loss in point.losses))):
            raise ValueError("a curve with a loss that is not finite")
        if self.groups and len(self.groups) != len(self.points[0].losses):
            raise ValueError(f"{len(self.groups)} groups of {len(self.points[0].losses)} losses")
        object.__setattr__(self, "points", tuple(sorted(self.points, key=lambda point: point.share)))

    def at(self, p: PruneRatio) -> Point:
        """The point at a ratio.

        Raises:
            KeyError: It was not measured.
        """
        for point in self.points:
            if point.p == p:
                return point
        raise KeyError(p)

    @property
    def least(self) -> Point:
        """Of the smallest share: no pruning, where p_min is 0."""
        return self.points[0]

    @property
    def best(self) -> Point:
        """Of the lowest mean loss; of equal ones that of the smaller share."""
        return min(self.points, key=lambda point: point.mean)

    def difference(self, one: Point, other: Point) -> tuple[float, float, float]:
        """Mean loss of one less that of the other, and its 95 % interval, of all numbers where so few rows
        know none.
        """
        error = self.error(one, other)
        half = Z * (math.inf if error is None else error)
        mean = one.mean - other.mean
        return mean, mean - half, mean + half

    def error(self, one: Point, other: Point) -> float | None:
        """The paired standard error of their difference; None for fewer than two clusters of rows."""
        return 0.0 if one.p == other.p else paired_error(one.losses, other.losses, self.groups)

    @property
    def close(self) -> tuple[Point, ...]:
        """What cannot be told from the best: by no more than the margin, or than noise."""
        best = self.best
        found = []
        for point in self.points:
            mean, low, _ = self.difference(point, best)
            if mean <= self.margin or low <= 0.0:
                found.append(point)
        return tuple(found)

    @property
    def free(self) -> Point:
        """Of the largest share that is not worse than the least by more than the margin and one standard
        error; by more than the margin, where so few rows know none.
        """
        least = self.least
        return next(
            point
            for point in reversed(self.points)
            if point.mean - least.mean <= self.margin + (self.error(point, least) or 0.0)
        )

    def choose(self, rule: CurveRule = "best") -> Point:
        """By a rule: the best, or (sparsest) the largest free ratio.

        Raises:
            GraspError: There is no such rule.
        """
        check_choice("select", rule, CurveRule)
        return self.best if rule == "best" else self.free

    def write(self, folder: Path) -> None:
        """As `curve.json`."""
        (folder / CURVE_FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "MeasuredCurve":
        """What `write` left.

        Raises:
            GraspError: It is not there, or is something else.
        """
        path = folder / CURVE_FILE
        try:
            found: MeasuredCurve = _CURVE.validate_json(path.read_bytes())
            return found
        except (OSError, ValueError) as error:
            raise GraspError(f"{path} cannot be read ({fault(error)}): make it again, with --force") from None


_CURVE: TypeAdapter[Any] = TypeAdapter(MeasuredCurve)
