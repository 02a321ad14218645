"""Is one method better than another on the same examples, or is it luck?

Two tests, both two-sided and paired: approximate randomisation (Riezler and Maxwell, 2005), and the paired
bootstrap (Koehn, 2004). Both are SciPy's. Means over examples are tested as they are; BLEU and chrF are
computed anew in every trial, by sacreBLEU, from the n-gram counts of the examples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from grasp_lora.errors import GraspError
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
    first: Score, second: Score, *, test: Test = "randomisation", resamples: int = 10_000, seed: int = 1
) -> Comparison:
    """Test a score that is a mean over examples; both of the same examples, in the same order.

    For methods that were run with several seeds, give each example the mean of its scores over the seeds
    first: runs on the same example are not independent examples.

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
        p_value = approximate_randomisation(first.examples, second.examples, resamples=resamples, seed=seed)
    else:
        p_value, interval = paired_bootstrap(first.examples, second.examples, resamples=resamples, seed=seed)
    how = f"{test}:{resamples}|seed:{seed}|scipy:{version('scipy')}|{first.signature}"
    return Comparison(first.name, first.value, second.value, p_value, interval, how)


def approximate_randomisation(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 1
) -> float:
    """The p-value of the difference of means when each example's two values are swapped at random.

    With at most log2(`resamples`) examples all swaps are tried, and the p-value is exact; otherwise it is
    (hits + 1) / (resamples + 1), so never 0.
    """
    return _randomise(np.asarray(first, float), np.asarray(second, float), _of_means, resamples, seed)


def paired_bootstrap(
    first: Sequence[float],
    second: Sequence[float],
    *,
    resamples: int = 10_000,
    seed: int = 1,
    confidence: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """The p-value and the percentile interval of `mean(second) - mean(first)`.

    Examples are drawn with replacement, both values of one together. The p-value is the share of resamples
    that lie at least as far from the observed difference as that lies from 0: (hits + 1) / (resamples + 1).
    """
    samples = np.asarray(first, float), np.asarray(second, float)
    return _bootstrap(*samples, _of_means, resamples, seed, confidence)


def compare_corpora(
    metric: str,
    first: Sequence[str] | Sequence[Sequence[str]],
    second: Sequence[str] | Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    language: str,
    *,
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
    counts = [_counts(measure, predictions, references) for predictions in (first, second)]
    runs = math.lcm(*map(len, counts))
    # (runs, 2 * examples, counts): the first method's examples, then the second's; trials draw row numbers
    rows = np.concatenate([np.resize(side, (runs, *side.shape[1:])) for side in counts], axis=1)

    def score(chosen: Any) -> Any:  # row numbers (..., examples) -> the mean score over runs (...)
        sums = rows[:, chosen].sum(axis=-2)
        values = np.apply_along_axis(
            lambda row: measure._compute_score_from_stats(row.tolist()).score, -1, sums
        )
        return values.mean(axis=0)

    def difference(first: Any, second: Any, axis: int) -> Any:
        return np.round(score(second) - score(first), _DECIMALS)

    size = len(references)
    samples = np.arange(size), np.arange(size, 2 * size)
    interval: tuple[float, float] | None = None
    if test == "randomisation":
        p_value = _randomise(*samples, difference, resamples, seed)
    else:
        p_value, interval = _bootstrap(*samples, difference, resamples, seed)
    how = f"{test}:{resamples}|seed:{seed}|scipy:{version('scipy')}|sacrebleu|{measure.get_signature()}"
    return Comparison(metric, float(score(samples[0])), float(score(samples[1])), p_value, interval, how)


def _counts(measure: Any, predictions: Any, references: Sequence[Sequence[str]]) -> Any:
    """What the metric counts of each prediction and sums over a corpus: (runs, examples, counts)."""
    runs = predictions if predictions and not isinstance(predictions[0], str) else [predictions]
    for run in runs:
        check_lengths(run, references)
    streams = reference_streams(references)
    return np.array([measure._extract_corpus_statistics(run, streams) for run in runs])


def _of_means(first: Any, second: Any, axis: int) -> Any:
    return np.round(np.mean(second, axis=axis) - np.mean(first, axis=axis), _DECIMALS)


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
    first: Any,
    second: Any,
    difference: Callable[..., Any],
    resamples: int,
    seed: int,
    confidence: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    _check_pairs(first, second, resamples)
    result = library("scipy.stats").bootstrap(
        (first, second),
        difference,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    observed = difference(first, second, axis=-1)
    distances = np.round(np.abs(result.bootstrap_distribution - observed), _DECIMALS)
    hits = int(np.sum(distances >= np.abs(observed)))
    low, high = result.confidence_interval
    return (hits + 1) / (resamples + 1), (float(low), float(high))


def _check_pairs(first: Any, second: Any, resamples: int) -> None:
    if len(first) != len(second):
        raise GraspError(f"significance: {len(first)} and {len(second)} examples: score the same ones")
    if len(first) < 2:
        raise GraspError(f"significance: needs at least 2 examples, got {len(first)}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise GraspError("significance: a value is infinite or not a number: compare finite ones only")
    if resamples < 1:
        raise GraspError(f"significance: resamples must be at least 1, got {resamples}")
