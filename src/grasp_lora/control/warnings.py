"""What a learning run's log says against its own ratio."""

from collections.abc import Sequence

from grasp_lora.control.noise import Look
from grasp_lora.control.rounds import Round
from grasp_lora.ratios import PerAdapter, PruneRatio, each, listed, prunes, unpruned

__all__ = ["FEW_PROBES", "warnings_of"]

FEW_PROBES = 30
MOSTLY_CLAMPED = 1 / 3


def warnings_of(
    p: PruneRatio, rounds: Sequence[Round], p_min: float, p_max: float, look: Look | None = None
) -> list[str]:
    """One sentence for each thing that a reader of p* should know.

    Args:
        p: p*.
        p_min, p_max: The policy's bounds.
        look: At p*, 0 and p*'s neighbours on dev rows, where one was taken.
    """
    probes = [probe for one in rounds for probe in one.probes]
    clamped = sum(probe.z != probe.p for probe in probes)
    sigma = max(each(rounds[-1].sigma_next))
    found = []
    if len(probes) < FEW_PROBES:
        found.append(f"p* = {p:.3f} is from {len(probes)} probes, fewer than {FEW_PROBES}: train for longer")
    if clamped > MOSTLY_CLAMPED * len(probes):
        found.append(f"{clamped} of {len(probes)} candidates were clamped to [{p_min:g}, {p_max:g}]")
    if sigma > p_max - p_min:
        found.append(f"the policy's spread grew to {sigma:.2f}, past its whole range: it knows nothing")
    bounds = {p_min, p_max} - ({0.0, 1.0} if isinstance(p, PerAdapter) else set())  # beyond lies nothing
    if p_min < p_max and bounds & set(each(p)):
        found.append(f"p* = {p:.3f} is at a bound of [{p_min:g}, {p_max:g}]: the best may lie beyond")
    if look is not None:
        found += _of_look(look)
    return found


def _of_look(look: Look) -> list[str]:
    found = []
    nothing = unpruned(look.p)
    if prunes(look.p) and nothing in look.dev:
        mean, low, high = look.difference(look.p, nothing)
        rows = "1 dev row" if len(look.dev[nothing]) == 1 else f"{len(look.dev[nothing])} dev rows"
        shown = f"on {rows}, before fine-tuning: loss {-mean:+.4f} [{-high:+.4f}, {-low:+.4f}]"
        if look.is_close(look.p, nothing) and low <= 0.0 <= high:
            found.append(f"p* = {look.p:.3f} cannot be told from no pruning at all {shown}")
        elif look.is_close(look.p, nothing):
            margin = f"the margin of {look.margin:g}"
            found.append(f"p* = {look.p:.3f} differs from no pruning at all by less than {margin} {shown}")
        elif mean < 0.0:
            found.append(f"p* = {look.p:.3f} is worse than no pruning at all {shown}")
    from scipy.stats import spearmanr  # half a second, which no import of the callback should take

    ratios = sorted(look.dev)
    if look.micro_dev.keys() == look.dev.keys() and len(ratios) > 2:
        seen = [[sum(rewards[p]) / len(rewards[p]) for p in ratios] for rewards in (look.dev, look.micro_dev)]
        if all(len(set(one)) > 1 for one in seen) and (rho := float(spearmanr(*seen).statistic)) <= 0.0:
            found.append(
                f"dev and micro-dev disagree about the order of {listed(ratios)} (Spearman's rho {rho:+.2f})"
            )
    return found
