"""Where training at one ratio for each of two adapters led, as a map of the pairs that were trained at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Literal

from grasp_lora.control.noise import MARGIN, Z, paired_error
from grasp_lora.ratios import PerAdapter, PruneRatio, spread
from grasp_lora.reporting.found import Found, MethodResult
from grasp_lora.reporting.trained import Trained

__all__ = ["Apart", "Pair", "RatioMap", "Split", "ratio_map"]

Split = Literal["dev", "test"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two ratios that were trained at, and what that led to.

    Attributes:
        by: The method that did.
        means: Loss in nats on dev and on test, where they are known.
        losses: Each row's, where they were kept; a grid keeps its points' means alone.
        groups: Each row's, see `paired_error`.
    """

    p: PerAdapter
    by: str
    means: Mapping[str, float]
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, one: MethodResult, p: PerAdapter) -> "Pair":
        losses: dict[str, Sequence[float]] = {"test": one.losses("test_losses")}
        means = {"test": one.spread("test_loss").mean}
        if one.has_dev:
            losses["dev"] = one.losses("dev_losses")
            means["dev"] = one.spread("dev_loss").mean
        return cls(p, one.method, means, losses, {"dev": one.rows[0].dev_groups, "test": one.rows[0].groups})


@dataclass(frozen=True, slots=True)
class Apart:
    """How far a pair is from the best one.

    Attributes:
        mean: Its loss less the best one's.
        error: The standard error of that over rows, infinite where they are too few; None: it is not tested.
    """

    mean: float
    error: float | None

    @property
    def within(self) -> bool:
        """Whether it cannot be told from the best one: by the margin, or where it is tested by noise."""
        return abs(self.mean) <= max(MARGIN, Z * (self.error or 0.0))


@dataclass(frozen=True)
class RatioMap:
    """All pairs of a run.

    Attributes:
        pairs: By rising ratios.
        adapters: What the two are called.
        whose: The same in a sentence.
    """

    pairs: Sequence[Pair]
    adapters: tuple[str, str]
    whose: tuple[str, str]

    @property
    def splits(self) -> list[Split]:
        """On which a pair was scored; the first chooses."""
        both: tuple[Split, ...] = ("dev", "test")
        return [split for split in both if self.on(split)]

    def on(self, split: Split) -> list[Pair]:
        """Those that have a loss there: none where the training diverged."""
        return [one for one in self.pairs if math.isfinite(one.means.get(split, math.nan))]

    @cached_property
    def best(self) -> Pair:
        """The lowest loss on the rows that choose, of equals the smaller ratios."""
        return min(self.on(self.splits[0]), key=lambda one: one.means[self.splits[0]])

    def apart(self, one: Pair, split: Split) -> Apart:
        """One pair, and the best."""
        mean = one.means[split] - self.best.means[split]
        own, best = one.losses.get(split), self.best.losses.get(split)
        if one is self.best:
            return Apart(0.0, 0.0)
        if not own or not best:
            return Apart(mean, None)
        error = paired_error(own, best, self.best.groups[split])
        return Apart(mean, math.inf if error is None else error)

    def corner(self, p: PerAdapter) -> str:
        """What a corner is called."""
        first, second = self.whose
        alone = {(0.0, 1.0): f"{first} alone, trained on", (1.0, 0.0): f"{second} alone, trained on"}
        return alone.get((p[0], p[1]), "" if any(p) else "merge")


def ratio_map(found: Found) -> RatioMap | None:
    """None where nothing was trained at a ratio for each of two adapters, or nothing beside one pair."""
    pairs: dict[PerAdapter, Pair] = {}
    points = [(one, one.p) for one in found.results if one.rows[0].is_point and one.p is not None]
    grids = {name: seen for name, seen in found.searched.items() if _trains_under_masks(found, name)}
    if not any(_is_pair(p) for p in chain((p for _, p in points), *grids.values())):
        return None
    for one, p in points:
        _put(pairs, Pair.of(one, spread(p, 2)))
    for name, seen in grids.items():
        for p, scores in seen.items():
            _put(pairs, Pair(spread(p, 2), name, {"dev": scores["dev_loss"]}))
    for one in found.results:
        if one.rows[0].corner is not None:
            _put(pairs, Pair.of(one, one.rows[0].corner))
    adapters = _adapters(found)
    made = RatioMap(
        [pairs[p] for p in sorted(pairs)], adapters or ("first", "second"), _whose(found, adapters)
    )
    return made if made.splits and len(made.on(made.splits[0])) > 1 else None


def _trains_under_masks(found: Found, method: str) -> bool:
    """Whether a search trained at each point under a fixed mask; others cut there, or prune at every step."""
    searched = next((one for one in found.results if one.method == method), None)
    trained = found.trained.get(method, Trained())
    return searched is not None and searched.rows[0].exhaustive and bool(trained.pruned.share_by_unit)


def _is_pair(p: PruneRatio) -> bool:
    return isinstance(p, PerAdapter) and len(p) == 2


def _put(pairs: dict[PerAdapter, Pair], one: Pair) -> None:
    """Where nothing stands yet."""
    if _is_pair(one.p):
        pairs.setdefault(one.p, one)


def _adapters(found: Found) -> tuple[str, str] | None:
    """The two in the order of the merge, by a learning run or by a site that both are at."""
    orders = [list(draws[0].adapters) for draws in found.learned.values()]
    for one in found.trained.values():
        sites: dict[str, list[str]] = {}
        for unit in one.pruned.share_by_unit:
            site, _, name = unit.rstrip("]").partition("[")
            sites.setdefault(site, []).append(name)
        orders += sites.values()
    return next(((order[0], order[1]) for order in orders if len(order) == 2), None)


def _whose(found: Found, adapters: tuple[str, str] | None) -> tuple[str, str]:
    if adapters is None:
        return "first adapter", "second adapter"
    first, second = adapters
    if found.compared.rows[0].source == first:
        return f"source adapter {first}", f"target adapter {second}"
    return f"adapter {first}", f"adapter {second}"
