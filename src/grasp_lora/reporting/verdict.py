"""What to deploy, whether pruning helped, what it cost: said before any table.

The choice is made on dev; the intervals come from test rows, which chose nothing.
"""

import math
import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.stats import t

from grasp_lora.control.noise import MARGIN, Z, paired_error
from grasp_lora.cost import Cost
from grasp_lora.metrics.clusters import clusters
from grasp_lora.metrics.significance import paired_bootstrap
from grasp_lora.ratios import prunes
from grasp_lora.reporting.found import Found, MethodResult, refit_of
from grasp_lora.workspace.rows import Row

__all__ = ["Verdict", "doubts", "interval", "verdict", "verdict_of"]


TELLING = 6  # rows or clusters: of 5 pairs no test finds p < 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which method's adapter to use, and three lines that say why."""

    method: str
    lines: tuple[str, ...]


def verdict(results: Sequence[MethodResult]) -> Verdict:
    """The method that took the fewest example passes of those within noise of the best dev loss.

    Within noise is less than `MARGIN`, or than 1.96 standard errors of the paired differences, over the dev
    rows and over the draws of the training rows, the two added as squares. (Of two draws Student's t would
    ask for 12.7 errors of the draws, so that no method could ever be preferred.) What differs from the best
    by much noise is no better for it: where another method has a lower dev loss and took fewer passes, that
    is chosen. Controls, which nobody would deploy, do not take part, nor do methods that were trained on dev;
    where the chosen one was so trained, too, that is deployed.
    """
    candidates = _candidates(results)
    if not candidates:
        return _unjudged(results)
    best = min(candidates, key=_mean_dev)
    close = [one for one in candidates if not _worse(one, best)]
    simplest = min(close, key=_passes)
    cheaper = [one for one in candidates if _passes(one) < _passes(simplest)]
    better = [one for one in cheaper if _mean_dev(one) <= _mean_dev(simplest)]
    chosen = min(better or [simplest], key=_passes)
    others = [one for one in candidates if one is not chosen] or _left_out(results)
    deployed = refit_of(chosen, results) or chosen
    standing = "best on dev"
    if chosen is not best:
        standing = (
            f"within noise of the best on dev ({best.title}), and of those the one that took the fewest "
        )
        standing += "passes"
    if chosen is not simplest:
        standing = (
            f"better on dev, and with fewer passes, than {simplest.title}, which is within noise of the best "
            f"({best.title})"
        )
    if deployed is not chosen:
        standing = f"after {chosen.title} was {standing}"
        others = [refit_of(one, results) or one for one in others]
    text = _deploy(deployed, standing, others)
    if deployed is not chosen:
        text += f" The further labelled rows changed test by {_difference(deployed, chosen)}."
    return Verdict(deployed.method, (text, _pruning(candidates), _cost(deployed, results)))


def verdict_of(found: Found) -> Verdict:
    """Of all that a run found; once, since its intervals take a while."""
    if "verdict" not in found.kept:
        found.kept["verdict"] = verdict(found.results)
    said: Verdict = found.kept["verdict"]
    return said


def doubts(results: Sequence[MethodResult], said: Verdict | None = None) -> list[str]:
    """What the methods' losses say against what their names promise, and against the verdict.

    Args:
        said: The verdict, where it is known already.
    """
    candidates, found = _candidates(results), []
    if len(candidates) > 1:
        simplest, best = min(candidates, key=_passes), min(candidates, key=_mean_dev)
        if not _worse(simplest, best):
            found.append(
                f"no method is better on dev than the simplest, {simplest.title}, by more than noise"
            )
    found += _seen_on_test(candidates, results, said or verdict(results))
    by_name = {one.method: one for one in results}
    for control in results:
        asked = by_name.get(control.rows[0].control_of)
        if asked is not None and asked.has_dev and not _worse(control, asked):
            found.append(
                f"{control.title}: as good on dev as {asked.title}, so that what the source's adapter adds "
                "is not what it knows"
            )
    for one in results:
        again = refit_of(one, results)
        if again is not None and interval(again, one)[0] > 0.0:
            found.append(f"{again.title}: worse on test than without these, {_difference(again, one)}")
    unmoved: dict[str, dict[str, None]] = {}  # stage -> the methods that it is behind
    for one in results:
        for stage in (stage for row in one.rows for stage in row.unmoved):
            unmoved.setdefault(stage, {})[one.title] = None
    for stage, titles in unmoved.items():
        found.append(
            f"{', '.join(titles)}: no epoch of {stage} was better on dev than its start, which was kept: try "
            "another learning rate, or more rows"
        )
    return found


def _seen_on_test(
    candidates: Sequence[MethodResult], results: Sequence[MethodResult], said: Verdict
) -> list[str]:
    """Whether test can tell that another is better than what dev chose: it must not choose, but can warn."""
    deployed = next(one for one in results if one.method == said.method)
    again = bool(deployed.rows[0].refit_of)
    rivals = [(refit_of(one, results) if again else None) or one for one in candidates]
    found = [
        _better_on_test(rivals, deployed, "more dev rows would have told"),
        _better_on_test(_left_out(results), deployed, "it was trained on dev, which could not choose it"),
    ]
    return [line for line in found if line]


def _better_on_test(rivals: Sequence[MethodResult], deployed: MethodResult, because: str) -> str | None:
    """The best of those that test rows can tell are better, in every draw."""
    loss = deployed.spread("test_loss").mean
    better = [
        one
        for one in rivals
        if one is not deployed
        and one.spread("test_loss").mean < loss - MARGIN
        and _of_rows(one, deployed)[1] < 0.0
        and _lower_in_each_draw(one, deployed)
    ]
    if not better or not _tells(deployed):
        return None
    best = min(better, key=lambda one: one.spread("test_loss").mean)
    draws = len(best.draws.keys() & deployed.draws.keys())
    by = f"{best.spread('test_loss').mean - loss:+.4f} nats and in each of {draws} draws"
    by = by if draws > 1 else _difference(best, deployed)
    return f"on test {best.title} is better than {deployed.title}, which dev chose, {by}: {because}"


def _lower_in_each_draw(one: MethodResult, other: MethodResult) -> bool:
    """Of those that both have, if any."""
    own, its = _by_draw(one, other, lambda row: row.test_loss)
    return bool(own) and all(map(operator.lt, own, its))


def _candidates(results: Sequence[MethodResult]) -> list[MethodResult]:
    """What dev can choose among; nothing where all were trained on it."""
    known = [one for one in results if one.has_dev]
    return [one for one in known if not one.rows[0].control_of and not one.rows[0].is_point] or known


def _left_out(results: Sequence[MethodResult]) -> list[MethodResult]:
    """Which dev cannot choose, since they were trained on it from the first: folds chose for them."""
    without = [one for one in results if not one.has_dev]
    return [one for one in without if not one.rows[0].control_of and not one.rows[0].refit_of]


def _unjudged(results: Sequence[MethodResult]) -> Verdict:
    """Where every method was trained on dev."""
    first = min(results, key=_passes)
    folder = first.rows[0].adapter or "no adapter, the backbone as it is"
    text = (
        f"Deploy: {first.title} ({folder}), which took the fewest passes; all here were trained on dev, so "
        "that nothing was left to choose by."
    )
    return Verdict(first.method, (text, _pruning([]), _cost(first, results)))


def _mean_dev(one: MethodResult) -> float:
    return one.spread("dev_loss").mean


def _deploy(deployed: MethodResult, standing: str, others: Sequence[MethodResult]) -> str:
    folder = deployed.rows[0].adapter or "no adapter, the backbone as it is"
    text = f"Deploy: {deployed.title} ({folder}), {standing}."
    if not others:
        return f"{text} There is nothing to compare it with."
    other = min(others, key=_passes)
    text += f" On test {_difference(deployed, other)} against the simplest other, {other.title}."
    own, its = deployed.steps, other.steps
    return text if own == its or not own or not its else f"{text} They had {own} and {its} steps."


def _pruning(candidates: Sequence[MethodResult]) -> str:
    dense = [one for one in candidates if one.p is not None and not prunes(one.p) and not _searched(one)]
    pruned = [one for one in candidates if prunes(one.p or 0.0) or one.rows[0].threshold is not None]
    if not dense or not pruned:
        return "Pruning: nothing to say; it takes a merge that is fine-tuned without, and one with it."
    without, best = (min(group, key=_mean_dev) for group in (dense, pruned))
    low, high = interval(best, without) if (enough := _tells(best)) else (-math.inf, math.inf)
    said = "helped" if high < 0 else "hurt" if low > 0 else "cannot be told from no pruning"
    if (low > 0 or high < 0) and max(abs(low), abs(high)) < MARGIN:
        said = "makes no difference that matters"
    if not enough:
        rows = "groups of test rows" if best.rows[0].groups else "test rows"
        said += f" with fewer than {TELLING} {rows}"
    at = "" if best.p is None or best.rows[0].is_point else f" at p = {best.p:.3f}"
    difference = _difference(best, without)
    return f"Pruning {said}: {best.title}{at} has {difference} on test against {without.title}."


def _searched(one: MethodResult) -> bool:
    """Whether it chose a ratio, be it 0: what it trained for that is no merge without pruning."""
    return bool(one.rows[0].choosing_steps)


def _tells(one: MethodResult) -> bool:
    """Whether there are test rows enough for any difference to be sure."""
    return clusters(one.rows[0].groups, len(one.rows[0].test_losses)) >= TELLING


def _cost(chosen: MethodResult, results: Sequence[MethodResult]) -> str:
    row = chosen.rows[0]
    stages = {k: v for one in results for r in one.rows for k, v in (r.all_costs or {}).items()}
    everything = Cost.together([Cost(**one) for one in stages.values()])
    own = row.cost if row.whole_cost is None else row.whole_cost
    return (
        f"Cost: {own.passes:,} example passes ({own.seconds / 60:.1f} minutes) beyond the sources' adapters, "
        f"{row.whole_choosing_passes:,} of them on choosing; all methods here took {everything.passes:,}."
    )


def _difference(one: MethodResult, other: MethodResult) -> str:
    difference = one.spread("test_loss").mean - other.spread("test_loss").mean
    low, high = interval(one, other)
    within = f" [{low:+.4f}, {high:+.4f}]" if math.isfinite(low) else ""
    draws = len(one.draws.keys() & other.draws.keys())
    return f"{difference:+.4f} nats{within}" + (f" over {draws} draws" if within and draws > 1 else "")


def interval(one: MethodResult, other: MethodResult) -> tuple[float, float]:
    """Of the difference of mean test losses, 95 %, from paired resamples, and from the draws of the training
    rows where there are several; infinite for one row.
    """
    low, high = _of_rows(one, other)
    difference = one.spread("test_loss").mean - other.spread("test_loss").mean
    means = _by_draw(one, other, lambda row: row.test_loss)
    error = paired_error(*means)
    over_draws = 0.0 if error is None else error * float(t.ppf(0.975, len(means[0]) - 1))
    return difference - math.hypot(difference - low, over_draws), difference + math.hypot(
        high - difference, over_draws
    )


def _of_rows(one: MethodResult, other: MethodResult) -> tuple[float, float]:
    """The interval of `interval`, over test rows alone."""
    first, second = (result.losses("test_losses") for result in (other, one))
    groups = one.rows[0].groups
    if clusters(groups, len(first)) < 2:
        return -math.inf, math.inf
    return paired_bootstrap(first, second, groups=groups)[1]


def _by_draw(
    one: MethodResult, other: MethodResult, loss: Callable[[Row], float]
) -> tuple[list[float], list[float]]:
    """The mean over seeds of each, in each draw that both have."""
    common = sorted(one.draws.keys() & other.draws.keys())
    first, second = (
        [statistics.fmean(map(loss, result.draws[draw])) for draw in common] for result in (one, other)
    )
    return first, second


def _worse(one: MethodResult, best: MethodResult) -> bool:
    difference = _mean_dev(one) - _mean_dev(best)
    first, second = (result.losses("dev_losses") for result in (one, best))
    by_row: float | None = 0.0  # an earlier version did not keep the rows' losses
    if first and second:
        by_row = paired_error(first, second, one.rows[0].dev_groups)
    noise = math.hypot(
        Z * (math.inf if by_row is None else by_row),
        Z * (paired_error(*_by_draw(one, best, lambda row: row.dev_loss or 0.0)) or 0.0),
    )
    return difference > max(MARGIN, noise)


def _passes(result: MethodResult) -> int:
    row = result.rows[0]
    return (row.cost if row.whole_cost is None else row.whole_cost).passes
