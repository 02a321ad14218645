"""How sure a difference is that a few rows have shown."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grasp_lora.errors import DAMAGED, GraspError
from grasp_lora.ratios import PruneRatio, as_ratio, each, in_order

__all__ = ["LOOK_FILE", "MARGIN", "Look", "Z", "detectable", "paired_error"]

LOOK_FILE = "on_dev.json"
MARGIN = 0.01  # nats: less is no difference that anybody should pay for
Z = 1.96  # standard errors of a 95 % interval
POWER = 0.84  # further ones, so that a difference is found four times in five


def paired_error(first: Sequence[float], second: Sequence[float], groups: Sequence[str] = ()) -> float | None:
    """The standard error of the mean of `first - second`, row by row; None for fewer than two clusters.

    Args:
        groups: Each row's; rows of one group are one cluster (Miller, 2024), "" is a group of its own, and
            () is that for all.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    sums: dict[str | int, float] = {}
    mean = math.fsum(differences) / len(differences) if differences else 0.0
    for index, difference in enumerate(differences):
        key = (groups[index] if groups else "") or index
        sums[key] = sums.get(key, 0.0) + difference - mean
    if len(sums) < 2:
        return None
    squares = math.fsum(value * value for value in sums.values())
    return math.sqrt(squares * len(sums) / (len(sums) - 1)) / len(differences)


def detectable(error: float) -> float:
    """The smallest true difference that a test at 5 % finds four times in five, with this standard error."""
    return (Z + POWER) * error


@dataclass(frozen=True, slots=True)
class Look:
    """One look at some ratios after a learning run's last step, before any fine-tuning at them.

    The policy is not told. Rows that p* was chosen on cannot say how good it is: the dev rows can.

    Attributes:
        p: p*.
        dev: Ratio -> the reward of each dev row.
        micro_dev: Ratio -> that of each micro-dev row, where the reward has any.
        margin: A smaller difference is none.
        groups: Each dev row's, see `paired_error`.
    """

    p: PruneRatio
    dev: Mapping[PruneRatio, Sequence[float]]
    micro_dev: Mapping[PruneRatio, Sequence[float]]
    margin: float = MARGIN
    groups: Sequence[str] = ()

    def difference(self, p: PruneRatio, other: PruneRatio) -> tuple[float, float, float]:
        """Mean reward on dev at `p` less that at `other`, and its 95 % interval."""
        mean = statistics.fmean(self.dev[p]) - statistics.fmean(self.dev[other])
        error = self._error(p, other)
        return mean, mean - Z * error, mean + Z * error

    @property
    def best(self) -> PruneRatio:
        """The ratio with the highest mean reward on dev; the smaller one on a tie."""
        return max(self.ratios, key=lambda p: statistics.fmean(self.dev[p]))

    def is_close(self, p: PruneRatio, other: PruneRatio) -> bool:
        """Whether the dev rows cannot tell two ratios: by no more than the margin, or than noise."""
        mean, _, _ = self.difference(p, other)
        return abs(mean) <= max(self.margin, Z * self._error(p, other))

    @property
    def ratios(self) -> list[PruneRatio]:
        """All that were looked at, rising."""
        return [p for p, _ in in_order(self.dev)]

    @property
    def close(self) -> list[PruneRatio]:
        """Those that dev cannot tell from the best one, rising."""
        return [p for p in self.ratios if self.is_close(p, self.best)]

    @property
    def range(self) -> tuple[PruneRatio, PruneRatio]:
        """The smallest and the largest of these."""
        return self.close[0], self.close[-1]

    @property
    def detectable(self) -> float:
        """The smallest difference of p* from the other ratios that so many rows can be expected to show."""
        return max((detectable(self._error(self.p, p)) for p in self.dev if p != self.p), default=0.0)

    def _error(self, p: PruneRatio, other: PruneRatio) -> float:
        """Infinite where there are too few rows to know it."""
        found = paired_error(self.dev[p], self.dev[other], self.groups)
        return math.inf if found is None and p != other else found or 0.0

    def write(self, folder: Path) -> None:
        """As `on_dev.json`."""
        rewards = {
            name: {str(p): list(values) for p, values in in_order(seen)}
            for name, seen in (("dev", self.dev), ("micro_dev", self.micro_dev))
        }
        about = {"p": self.p, "margin": self.margin, "groups": list(self.groups)}
        text = json.dumps({**about, "label": "before fine-tuning", **rewards})
        (folder / LOOK_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Look | None":
        """None where no such look was taken.

        Raises:
            GraspError: The file holds something else.
        """
        path = folder / LOOK_FILE
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            dev, micro_dev = (
                {as_ratio(p): tuple(values) for p, values in found[name].items()}
                for name in ("dev", "micro_dev")
            )
            look = cls(as_ratio(found["p"]), dev, micro_dev, float(found["margin"]), tuple(found["groups"]))
            rewards = (value for seen in (dev, micro_dev) for values in seen.values() for value in values)
            known = (number for seen in (dev, micro_dev) for p in seen for number in each(p))
            if not all(map(math.isfinite, (*each(look.p), look.margin, *known, *rewards))):
                raise ValueError("a number that is not finite")
            for p in look.dev:
                look.difference(p, look.p)
                look.is_close(p, look.best)
            return look
        except DAMAGED as error:
            raise GraspError(f"{path} cannot be read ({error})") from None
