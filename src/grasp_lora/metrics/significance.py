"""Is one method better than another on the same examples, or is it luck?

Two tests, both two-sided and paired: approximate randomisation (Riezler and Maxwell, 2005), and the paired
bootstrap (Koehn, 2004). Both are SciPy's. Means over examples are tested as they are; BLEU and chrF are
computed anew in every trial, by sacreBLEU, from the n-gram counts of the examples. Examples of one group,
such as questions about one passage, are one cluster: they are swapped and drawn together (Miller, 2024).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from grasp_lora.errors import GraspError
from grasp_lora.metrics.clusters import clusters, numbered, summed, sums
from grasp_lora.metrics.libraries import library
from grasp_lora.metrics.overlap import reference_streams
from grasp_lora.metrics.score import Score, check_lengths
from grasp_lora.metrics.scoring import of_corpus

__all__ = [
    "Comparison",
    "Test",
    "approximate_randomisation",
    "compare_corpora",
    "compare_scores",
    "holm",
    "paired_bootstrap",
]

Test = Literal["randomisation", "bootstrap"]

_BATCH = 100  # resamples at a time, which bounds memory
_DECIMALS = 10  # of differences, which are of 0..100 or nats: without rounding, ties would be lost


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods under one metric.

    Attributes:
        metric: Its name.
        first: The first method's value, 0..100.
        second: The second method's.
        p_value: The chance of a difference at least this large, in either direction, if the methods were
            equally good.
        interval: The 95% confidence interval of `second - first`, where the test gives one.
        signature: The test, its settings and the metric's signature.
    """

    metric: str
    first: float
    second: float
    p_value: float
    interval: tuple[float, float] | None
    signature: str

    @property
    def difference(self) -> float:
        """`second - first`."""
        return self.second - self.first


def compare_scores(
    first: Score,
    second: Score,
    *,
    groups: Sequence[str] = (),
    test: Test = "randomisation",
    resamples: int = 10_000,
    seed: int = 1,
) -> Comparison:
    """Test a score that is a mean over examples; both of the same examples, in the same order.

    For methods that were run with several seeds, give each example the mean of its scores over the seeds
    first: runs on the same example are not independent examples.

    Args:
        groups: Each example's; "" is a group of its own, and () is that for all.

    Raises:
        GraspError: Other metric, other signature, other number of examples, or a corpus metric.
    """
    if first.examples is None or second.examples is None:
        raise GraspError(f"significance: {first.name} has no value per example: use compare_corpora")
    if (first.name, first.signature) != (second.name, second.signature):
        raise GraspError(
            f"significance: cannot compare {first.name} ({first.signature}) with {second.name} "
            f"({second.signature}): score both sets of predictions in the same way"
        )
    interval: tuple[float, float] | None = None
    if test == "randomisation":
        p_value = approximate_randomisation(
            first.examples, second.examples, groups=groups, resamples=resamples, seed=seed
        )
    else:
        p_value, interval = paired_bootstrap(
            first.examples, second.examples, groups=groups, resamples=resamples, seed=seed
        )
    how = f"{_how(test, resamples, seed, groups)}|{first.signature}"
    return Comparison(first.name, first.value, second.value, p_value, interval, how)


def approximate_randomisation(
    first: Sequence[float],
    second: Sequence[float],
    *,
    groups: Sequence[str] = (),
    resamples: int = 10_000,
    seed: int = 1,
) -> float:
    """The p-value of the difference of means when each cluster's two sets of values are swapped at random.

    With at most log2(`resamples`) clusters all swaps are tried, and the p-value is exact; otherwise it is
    (hits + 1) / (resamples + 1), so never 0.
    """
    (one, other, _), total = sums(first, second, groups), len(first)

    def difference(first: Any, second: Any, axis: int) -> Any:
        return np.round((np.sum(second, axis=axis) - np.sum(first, axis=axis)) / total, _DECIMALS)

    return _randomise(one, other, difference, resamples, seed)


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    *,
    groups: Sequence[str] = (),
    resamples: int = 10_000,
    seed: int = 1,
    confidence: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """The p-value and the percentile interval of `mean(second) - mean(first)`.

    Clusters are drawn with replacement, all values of one together. The p-value is the share of resamples
    that lie at least as far from the observed difference as that lies from 0: (hits + 1) / (resamples + 1).
    """

    def difference(first: Any, second: Any, sizes: Any, axis: int) -> Any:
        mean = (np.sum(second, axis=axis) - np.sum(first, axis=axis)) / np.sum(sizes, axis=axis)
        return np.round(mean, _DECIMALS)

    return _bootstrap(sums(first, second, groups), difference, resamples, seed, confidence)


def compare_corpora(
    metric: str,
    first: Sequence[str] | Sequence[Sequence[str]],
    second: Sequence[str] | Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    language: str,
    *,
    groups: Sequence[str] = (),
    tokenizer: str | None = None,
    test: Test = "randomisation",
    resamples: int = 10_000,
    seed: int = 1,
) -> Comparison:
    """Test `bleu` or `chrf` on two methods' predictions for the same examples.

    A method that was run with several seeds has the mean of their scores. A trial moves all predictions for
    an example together, because runs on the same example are not independent examples. Where the methods have
    unlike numbers of runs, each method's are repeated as often as it takes.

    Args:
        metric: `bleu` or `chrf`.
        first: One method's predictions, or a list of them for each seed.
        second: The other's.
        references: Each example's references.
        language: Chooses BLEU's tokenizer.
        groups: Each example's, as in `compare_scores`.
        tokenizer: BLEU's tokenizer, instead of the language's.
        test: Which test.
        resamples: Trials.
        seed: Of the trials.

    Raises:
        GraspError: Another metric, fewer than 2 examples, or predictions that do not fit the references.
    """
    if (corpus := of_corpus(metric)) is None:
        raise GraspError(f"significance: {metric!r} is no corpus metric. Use compare_scores for it.")
    measure = corpus(language, tokenizer)
    numbers = numbered(groups, len(references))
    counts = [summed(_counts(measure, answers, references), numbers, axis=1) for answers in (first, second)]
    runs = math.lcm(*map(len, counts))
    # (runs, 2 * clusters, counts): the first method's clusters, then the second's; trials draw row numbers
    rows = np.concatenate([np.resize(side, (runs, *side.shape[1:])) for side in counts], axis=1)

    def score(chosen: Any) -> Any:  # row numbers (..., clusters) -> the mean score over runs (...)
        sums = rows[:, chosen].sum(axis=-2)
        values = np.apply_along_axis(
            lambda row: measure._compute_score_from_stats(row.tolist()).score, -1, sums
        )
        return values.mean(axis=0)

    def difference(first: Any, second: Any, axis: int) -> Any:
        return np.round(score(second) - score(first), _DECIMALS)

    size = clusters(groups, len(references))
    samples = np.arange(size), np.arange(size, 2 * size)
    interval: tuple[float, float] | None = None
    if test == "randomisation":
        p_value = _randomise(*samples, difference, resamples, seed)
    else:
        p_value, interval = _bootstrap(samples, difference, resamples, seed)
    how = f"{_how(test, resamples, seed, groups)}|sacrebleu|{measure.get_signature()}"
    return Comparison(metric, float(score(samples[0])), float(score(samples[1])), p_value, interval, how)


def _counts(measure: Any, predictions: Any, references: Sequence[Sequence[str]]) -> Any:
    """What the metric counts of each prediction and sums over a corpus: (runs, examples, counts)."""
    runs = predictions if predictions and not isinstance(predictions[0], str) else [predictions]
    for run in runs:
        check_lengths(run, references)
    streams = reference_streams(references)
    return np.array([measure._extract_corpus_statistics(run, streams) for run in runs])


def _how(test: Test, resamples: int, seed: int, groups: Sequence[str]) -> str:
    """The start of a signature."""
    found = f"|clusters:{clusters(groups, len(groups))}" if groups else ""
    return f"{test}:{resamples}|seed:{seed}{found}|scipy:{version('scipy')}"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several tests, in their order (Holm, 1979): the k-th smallest of n times
    n - k + 1, none smaller than the one before it, at most 1.
    """
    adjusted, least = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, least)
    return adjusted


def _randomise(first: Any, second: Any, difference: Callable[..., Any], resamples: int, seed: int) -> float:
    _check_pairs(first, second, resamples)
    result = library("scipy.stats").permutation_test(
        (first, second),
        lambda one, other, axis: np.abs(difference(one, other, axis)),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _bootstrap(
    samples: Any,
    difference: Callable[..., Any],
    resamples: int,
    seed: int,
    confidence: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    _check_pairs(samples[0], samples[1], resamples)
    result = library("scipy.stats").bootstrap(
        samples,
        difference,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    observed = difference(*samples, axis=-1)
    distances = np.round(np.abs(result.bootstrap_distribution - observed), _DECIMALS)
    hits = int(np.sum(distances >= np.abs(observed)))
    low, high = result.confidence_interval
    return (hits + 1) / (resamples + 1), (float(low), float(high))


def _check_pairs(first: Any, second: Any, resamples: int) -> None:
    if len(first) != len(second):
        raise GraspError(f"significance: {len(first)} and {len(second)} examples: score the same ones")
    if len(first) < 2:
        raise GraspError(f"significance: needs at least 2 examples that share no group, got {len(first)}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise GraspError("significance: a value is infinite or not a number: compare finite ones only")
    if resamples < 1:
        raise GraspError(f"significance: resamples must be at least 1, got {resamples}")
