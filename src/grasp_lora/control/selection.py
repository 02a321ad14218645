"""Which ratio a finished log teaches: p* (GRASP Sec. 3.3), and rules that look at all probes."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grasp_lora.control.noise import MARGIN
from grasp_lora.control.rounds import Round
from grasp_lora.errors import GraspError
from grasp_lora.ratios import PerAdapter, PruneRatio

__all__ = ["OF_ONE", "GraspResult", "SelectionRule", "select_ratio"]

SelectionRule = Literal["best", "last", "policy_mean", "curve", "sparsest"]
OF_ONE = ("curve", "sparsest")
"""Rules that are of one ratio for all adapters."""


@dataclass(frozen=True, slots=True)
class GraspResult:
    """What the rounds so far have taught; `best_ratio` is p*."""

    best_ratio: PruneRatio
    best_reward: float | None  # absolute micro-dev reward seen at p*; None where the rule does not look at it
    rule: SelectionRule
    rounds: tuple[Round, ...]


def select_ratio(
    rounds: Sequence[Round], rule: SelectionRule = "best", margin: float = MARGIN
) -> GraspResult:
    """Choose p* from the log.

    - "best" (Sec. 3.3, "Logging and selecting p*"): the highest absolute micro-dev reward anywhere in the
      log, R~(p_curr) at p_curr and R~(p_curr) + R_i at p_i; the earlier one on a tie.
    - "last": the committed ratio at the end. "policy_mean": mu at the end.
    - "curve": the maximum, within the probed range, of a quadratic in p that is fitted to all absolute
      rewards, with one offset per round, since training moves them all, and rounds weighing as much as their
      probes were sure.
    - "sparsest": the largest ratio of the probed range that is not worse on that curve than its maximum by
      more than the margin and one standard error of the difference.

    The last two are of one ratio alone: of several a quadratic has more terms than so few probes can tell.

    Args:
        margin: A smaller difference is none, in units of the reward; of "sparsest".

    Raises:
        GraspError: There is no round; or the rule is of one ratio, and each adapter has its own.
    """
    if not rounds:
        raise GraspError("no controller round was made: train for at least K optimizer steps (control.every)")
    if rule == "last":
        return GraspResult(rounds[-1].p_next, None, rule, tuple(rounds))
    if rule == "policy_mean":
        return GraspResult(rounds[-1].mu_next, None, rule, tuple(rounds))
    if rule in OF_ONE:
        if isinstance(rounds[0].p_curr, PerAdapter):
            raise GraspError(
                f"select: {rule} is of one ratio for all adapters: take best, last or policy_mean"
            )
        curve = _Curve(rounds)
        p = curve.best if rule == "curve" else curve.sparsest(margin)
        return GraspResult(p, None, rule, tuple(rounds))
    seen = [(reward, p) for one in rounds for p, reward in _seen(one)]
    reward, best = max(seen, key=lambda pair: pair[0])  # max keeps the first of equals
    return GraspResult(best, reward, rule, tuple(rounds))


def _seen(one: Round) -> list[tuple[PruneRatio, float]]:
    """Ratio and absolute reward, the committed one first."""
    probes = [(probe.p, one.base_reward + probe.reward) for probe in one.probes]
    return [(one.p_curr, one.base_reward), *probes]


def _points(one: Round) -> list[tuple[float, float]]:
    """The same of one ratio for all."""
    return [(p, reward) for p, reward in _seen(one) if not isinstance(p, PerAdapter)]


class _Curve:
    """Weighted least squares: reward = offset of the round + b p + c p^2.

    A round's points weigh alike, so its offset is what is left of their means: the slopes are those of the
    differences from the round's mean, and the offsets need not be solved for.
    """

    def __init__(self, rounds: Sequence[Round]) -> None:
        self.ratios = sorted({p for one in rounds for p, _ in _points(one)})
        self.degree = min(2, len(self.ratios) - 1)  # what so many ratios can tell
        designs, rewards = [], []
        for one, weight in zip(rounds, _weights(rounds), strict=True):
            points = _points(one)
            powers = np.stack([self._powers(p) for p, _ in points])  # (points, degree)
            values = np.array([reward for _, reward in points])
            designs.append((powers - powers.mean(0)) * math.sqrt(weight))
            rewards.append((values - values.mean()) * math.sqrt(weight))
        design, seen = np.concatenate(designs), np.concatenate(rewards)
        self.slopes, *_ = np.linalg.lstsq(design, seen, rcond=None)
        left = seen - design @ self.slopes
        free = max(1, len(seen) - len(rounds) - self.degree)
        self.covariance = (left @ left / free) * np.linalg.pinv(design.T @ design)

    @property
    def best(self) -> float:
        """The maximum within the probed range; the smaller ratio on a tie."""
        ends = [self.ratios[0], self.ratios[-1]]
        if self.degree == 2 and self.slopes[1] < 0.0:
            top = float(-self.slopes[0] / (2 * self.slopes[1]))
            if ends[0] < top < ends[1]:
                return top
        return max(ends, key=self._value)

    def sparsest(self, margin: float) -> float:
        """The largest ratio within reach of the maximum."""
        best = self.best
        for p in np.linspace(self.ratios[-1], best, 1001).tolist():
            step = self._powers(best) - self._powers(p)
            if step @ self.slopes <= margin + math.sqrt(max(0.0, step @ self.covariance @ step)):
                return float(p)
        return best

    def _powers(self, p: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        return np.array([p, p * p][: self.degree])

    def _value(self, p: float) -> float:
        return float(self._powers(p) @ self.slopes)


def _weights(rounds: Sequence[Round]) -> list[float]:
    """One over the mean variance of each round's relative rewards, at most ten times the usual one: probes
    beside the committed ratio differ by hardly anything, and surely. The same for all where one is unknown.
    """
    variances = [_variance(one) for one in rounds]
    known = [variance for variance in variances if variance is not None]
    usual = statistics.median(known) if len(known) == len(variances) else 0.0
    return [1.0 / max(one, usual / 10) if one is not None and usual else 1.0 for one in variances]


def _variance(one: Round) -> float | None:
    errors = [probe.standard_error for probe in one.probes]
    if None in errors:
        return None
    return sum(error * error for error in errors if error is not None) / len(errors)
