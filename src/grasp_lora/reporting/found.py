"""What a run found, method by method: the numbers behind its tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any, Literal

from grasp_lora.control.halving import HalvingResult
from grasp_lora.control.measured import MeasuredCurve
from grasp_lora.cost import Cost
from grasp_lora.metrics.clusters import clusters
from grasp_lora.metrics.score import Score, Spread, over_seeds
from grasp_lora.metrics.significance import Comparison, Test, compare_corpora, compare_scores, holm
from grasp_lora.ratios import PruneRatio
from grasp_lora.reporting.blocks import show_range, without_controls
from grasp_lora.reporting.trained import Learned, Trained
from grasp_lora.workspace.records import MeasuredDeployment, RankCheck
from grasp_lora.workspace.rows import Row

__all__ = [
    "LOSSES",
    "Found",
    "MethodResult",
    "adjusted",
    "compare_methods",
    "compare_with",
    "refit_of",
    "together",
]

LOSSES = ("dev_loss", "test_loss")  # nats per target token


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One method of a run: its rows, one per draw and seed, or one where it trains nothing of its own."""

    rows: tuple[Row, ...]
    run: str = ""
    """Its folder, where results of several are compared."""

    @property
    def method(self) -> str:
        """Its name in the config."""
        return self.rows[0].method

    @property
    def title(self) -> str:
        """What it is called where people read."""
        return without_controls(self.rows[0].title or self.method)

    @property
    def p(self) -> PruneRatio | None:
        """The prune ratio of the first seed's adapter, where it has one."""
        return self.rows[0].p

    @property
    def ratios(self) -> Sequence[PruneRatio]:
        """Of each draw's first adapter."""
        return [rows[0].p for rows in self.draws.values() if rows[0].p is not None]

    @property
    def steps(self) -> str:
        """On target rows; of draws and seeds for which dev kept different epochs the fewest to the most."""
        return show_range([row.steps for row in self.rows if row.steps is not None])

    @property
    def rate(self) -> str:
        """What dev chose for the last training, in the same way; "" where no rate was searched."""
        return show_range([next(iter(row.rates.values())) for row in self.rows if row.rates])

    @property
    def cost(self) -> Cost:
        """What the search, if any, and the first seed's training took together."""
        return self.rows[0].cost

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the answers of every seed were scored with."""
        return tuple(name for name in self.rows[0].scores if all(name in row.scores for row in self.rows))

    def has(self, metric: str) -> bool:
        """Whether every seed was scored with it; an interrupted run may have some methods that were not."""
        return metric in LOSSES or metric in self.metrics

    def value(self, row: Row, metric: str) -> float:
        """One seed's."""
        return float(getattr(row, metric) if metric in LOSSES else row.scores[metric]["value"])

    @property
    def draws(self) -> Mapping[int, Sequence[Row]]:
        """The rows of each sample of the training rows."""
        found: dict[int, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.draw, []).append(row)
        return found

    @property
    def has_dev(self) -> bool:
        """Whether dev rows scored it, and were not trained on."""
        return all(row.dev_loss is not None for row in self.rows)

    def spread(self, metric: str) -> Spread:
        """Mean and standard deviation of a loss or a metric: over draws, of the means over their seeds; where
        there is one draw, over the seeds.
        """
        by_draw = [[self.value(row, metric) for row in rows] for rows in self.draws.values()]
        return over_seeds(by_draw[0] if len(by_draw) == 1 else [fmean(values) for values in by_draw])

    def source_loss(self, source: str) -> float | None:
        """On a source's dev rows, the mean over draws and seeds; None where it was not measured."""
        found = [row.source_losses[source] for row in self.rows if source in row.source_losses]
        return fmean(found) if len(found) == len(self.rows) else None

    def losses(self, name: Literal["dev_losses", "test_losses"]) -> tuple[float, ...]:
        """Each example's mean over the seeds, in nats per target token."""
        return _means([getattr(row, name) for row in self.rows])

    def by_example(self, metric: str) -> Score | None:
        """Each example's mean over the seeds; None for corpus metrics, which have no value per example.

        Runs with other seeds on the same example are no independent examples, so a test must see them as one.
        """
        if metric == "test_loss":
            means, signature = self.losses("test_losses"), "nats per target token"
        else:
            found = [row.scores[metric] for row in self.rows]
            if found[0]["examples"] is None:
                return None
            means, signature = _means([score["examples"] for score in found]), found[0]["signature"]
        return Score(metric, math.fsum(means) / len(means), signature, means)


def _means(values: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(fmean(column) for column in zip(*values, strict=True))


def together(rows: Sequence[Row]) -> tuple[MethodResult, ...]:
    """Rows of one method as one result, in the order of the methods' first rows."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    return tuple(MethodResult(tuple(found)) for found in by_method.values())


@dataclass(frozen=True)
class Found:
    """All that a report shows."""

    results: tuple[MethodResult, ...]
    reference: str
    """The method that the others are compared with."""
    sources: Mapping[str, float] = field(default_factory=dict)
    """Source -> the dev loss of its own adapter, where it was trained in the run."""
    learned: Mapping[str, Sequence[Learned]] = field(default_factory=dict)
    """By method, one for each draw: GRASP, its variants, even draws."""
    curves: Mapping[str, Sequence[MeasuredCurve]] = field(default_factory=dict)
    """By method, one for each draw: what one training of all ratios showed."""
    halved: Mapping[str, Sequence[HalvingResult]] = field(default_factory=dict)
    """By method, one for each draw: whom halving compared, and kept."""
    tests: Mapping[str, tuple[MethodResult, ...]] = field(default_factory=dict)
    """By further test set."""
    searched: Mapping[str, Mapping[PruneRatio, Mapping[str, float]]] = field(default_factory=dict)
    """Method -> ratio or threshold -> dev loss and dev metrics after training at it."""
    rank_check: RankCheck | None = None
    deployed: Mapping[str, MeasuredDeployment] = field(default_factory=dict)
    """By the methods' titles."""
    trained: Mapping[str, Trained] = field(default_factory=dict)
    """By method: its adapter of the first draw and seed, where it was trained."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Method -> the settings that it has other values of than the reference."""
    missing: tuple[str, ...] = ()
    """What the run was to make and has not yet."""
    name: str = ""
    resamples: int = 10_000
    """Trials of each test."""
    kept: dict[str, Any] = field(default_factory=dict, compare=False)
    """What was worked out of it already."""

    @property
    def title(self) -> str:
        """Of its report."""
        row = self.compared.rows[0]
        return f"{self.name or 'Run'}: {row.task}, {row.source} → {row.target}"

    @property
    def compared(self) -> MethodResult:
        """The reference's result."""
        return next(result for result in self.results if result.method == self.reference)

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.compared.metrics

    def reference_of(self, method: str) -> str:
        """What a method is compared with: the reference, or its own refit where the method is one."""
        refit = next(one.rows[0].refit_of for one in self.results if one.method == method)
        again = refit_of(self.compared, self.results) if refit else None
        return self.reference if again is None else again.method

    def adjusted(self, metric: str) -> Mapping[str, float]:
        """Method -> its p-value under a metric, adjusted for how many were compared (Holm)."""
        return adjusted(self.comparisons, metric)

    @cached_property
    def comparisons(self) -> Mapping[str, Sequence[Comparison]]:
        """Method -> the reference compared with it, where there are examples enough for a test."""
        return compare_with(self.compared, self.results, self.resamples)


def adjusted(comparisons: Mapping[str, Sequence[Comparison]], metric: str) -> Mapping[str, float]:
    """Method -> its p-value under a metric, adjusted for how many were compared (Holm)."""
    found = {
        method: c.p_value for method, tested in comparisons.items() for c in tested if c.metric == metric
    }
    return dict(zip(found, holm(list(found.values())), strict=True))


def refit_of(one: MethodResult, results: Sequence[MethodResult]) -> MethodResult | None:
    """The same method on all labelled rows, where there is one."""
    return next((other for other in results if other.rows[0].refit_of == one.method), None)


def compare_with(
    reference: MethodResult, results: Sequence[MethodResult], resamples: int = 10_000
) -> Mapping[str, Sequence[Comparison]]:
    """Method -> the reference compared with it, under all that there are examples enough to test; what was
    trained on all labelled rows with the reference that was so, too.
    """
    row = reference.rows[0]
    tested = ["test_loss"] if clusters(row.groups, len(row.test_losses)) > 1 else []
    if clusters(row.groups, len(row.answers)) > 1:
        tested += reference.metrics
    again = refit_of(reference, results)
    return {
        result.method: [
            compare_methods(against, result, metric, resamples=resamples)
            for metric in tested
            if result.has(metric) and against.has(metric)
        ]
        for result in results
        if (against := again if result.rows[0].refit_of else reference) not in (None, result)
    }


def compare_methods(
    first: MethodResult,
    second: MethodResult,
    metric: str,
    *,
    test: Test = "randomisation",
    resamples: int = 10_000,
) -> Comparison:
    """Is the difference of two methods more than luck? Over examples, each with its mean over the seeds.

    BLEU and chrF have no value per example: there an example's answers of all seeds are swapped together.

    Args:
        metric: "test_loss" or a metric that both were scored with.
        resamples: Trials.
    """
    one, other = first.by_example(metric), second.by_example(metric)
    if one is not None and other is not None:
        groups = first.rows[0].groups[: len(one.examples or ())]
        found = compare_scores(one, other, groups=groups, test=test, resamples=resamples)
    else:
        found = _compare_corpora(first, second, metric, test, resamples)
    return replace(found, signature=f"{found.signature}|{_what(first, second)}")


def _what(first: MethodResult, second: MethodResult) -> str:
    """What two methods were given, for a signature: the first one's, then the second's."""
    both = (first, second)
    pairs = {
        "draws": [str(len(one.draws)) for one in both],
        "seeds": [str(max(map(len, one.draws.values()))) for one in both],
        "steps": [str(one.rows[0].steps) for one in both],
        "choosing": [str(one.rows[0].choosing_steps) for one in both],
        "folds": [str(one.rows[0].folds) for one in both],
    }
    rows = f"rows:{len(first.rows[0].test_losses)}"
    return "|".join([rows, *(f"{name}:{','.join(found)}" for name, found in pairs.items())])


def _compare_corpora(
    first: MethodResult, second: MethodResult, metric: str, test: Test, resamples: int
) -> Comparison:
    return compare_corpora(
        metric,
        [[answer.prediction for answer in row.answers] for row in first.rows],
        [[answer.prediction for answer in row.answers] for row in second.rows],
        [answer.references for answer in first.rows[0].answers],
        first.rows[0].target,
        groups=first.rows[0].groups[: len(first.rows[0].answers)],
        test=test,
        resamples=resamples,
    )
