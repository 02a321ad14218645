"""Choosing p* from the rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grasp_lora.control.rounds import Round
from grasp_lora.errors import GraspError

__all__ = ["GraspResult", "SelectionRule", "select_ratio"]

SelectionRule = Literal["best", "last", "policy_mean"]


@dataclass(frozen=True, slots=True)
class GraspResult:
    """What the rounds so far have taught; `best_ratio` is p*."""

    best_ratio: float
    best_reward: float | None  # absolute micro-dev reward seen at p*; None where the rule does not look at it
    rule: SelectionRule
    rounds: tuple[Round, ...]


def select_ratio(rounds: Sequence[Round], rule: SelectionRule = "best") -> GraspResult:
    """Choose p* from the log.

    "best" (Sec. 3.3, "Logging and selecting p*"): the highest absolute micro-dev reward anywhere in the
    log, R~(p_curr) at p_curr and R~(p_curr) + R_i at p_i; the earlier one on a tie. "last": the
    committed ratio at the end. "policy_mean": mu at the end.

    Raises:
        GraspError: There is no round.
    """
    if not rounds:
        raise GraspError("no controller round was made: train for at least K optimizer steps (control.every)")
    if rule == "last":
        return GraspResult(rounds[-1].p_next, None, rule, tuple(rounds))
    if rule == "policy_mean":
        return GraspResult(rounds[-1].mu_next, None, rule, tuple(rounds))
    seen = [
        (reward, p)
        for r in rounds
        for reward, p in [(r.base_reward, r.p_curr), *((r.base_reward + x.reward, x.p) for x in r.probes)]
    ]
    reward, p = max(seen, key=lambda pair: pair[0])  # max keeps the first of equals
    return GraspResult(p, reward, rule, tuple(rounds))
