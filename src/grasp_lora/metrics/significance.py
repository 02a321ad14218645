"""Is one method better than another on the same examples, or is it luck?

Two tests, both two-sided and paired: approximate randomisation (Riezler and Maxwell, 2005), and the paired
bootstrap (Koehn, 2004). Scores that are means over examples are tested with SciPy, BLEU and chrF with
sacreBLEU's `PairedTest`.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from grasp_lora.errors import GraspError
from grasp_lora.metrics.libraries import library
from grasp_lora.metrics.overlap import bleu_metric, chrf_metric, reference_streams
from grasp_lora.metrics.score import Score, check_lengths
from grasp_lora.metrics.tokenizers import bleu_tokenizer

__all__ = [
    "Comparison",
    "Test",
    "approximate_randomisation",
    "compare_corpora",
    "compare_scores",
    "paired_bootstrap",
]

Test = Literal["randomisation", "bootstrap"]

_BATCH = 1000  # resamples at a time, which bounds memory


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
    (hits + 1) / (resamples + 1) per side, so never 0.
    """
    _check_pairs(first, second, resamples)
    result = library("scipy.stats").permutation_test(
        (np.asarray(first, dtype=float), np.asarray(second, dtype=float)),
        _difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


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
    _check_pairs(first, second, resamples)
    result = library("scipy.stats").bootstrap(
        (np.asarray(first, dtype=float), np.asarray(second, dtype=float)),
        _difference,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    observed = math.fsum(b - a for a, b in zip(first, second, strict=True)) / len(first)
    distances = np.abs(result.bootstrap_distribution - observed)
    hits = int(np.sum(distances >= abs(observed) * (1 - 1e-12)))  # equal but for rounding is a hit
    low, high = result.confidence_interval
    return (hits + 1) / (resamples + 1), (float(low), float(high))


def compare_corpora(
    metric: str,
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[Sequence[str]],
    language: str,
    *,
    tokenizer: str | None = None,
    test: Test = "randomisation",
    resamples: int | None = None,
    seed: int = 1,
) -> Comparison:
    """Test `bleu` or `chrf` on two methods' predictions for the same examples.

    sacreBLEU counts only trials that beat the observed difference, so two methods whose predictions are the
    same, or differ in one example, would come out as different for certain. The share of trials that must
    tie is therefore added: with k differing predictions, those that swap all or none of them, 2 in 2^k. Where
    the two values are equal (both 0, say), every trial is at least as far off, and the p-value is 1.

    Args:
        metric: `bleu` or `chrf`.
        first: One method's predictions.
        second: The other's.
        references: Each example's references.
        language: Chooses BLEU's tokenizer.
        tokenizer: BLEU's tokenizer, instead of the language's.
        test: Which test.
        resamples: By default sacreBLEU's: 10,000 swaps, 1,000 bootstrap resamples.
        seed: At least 1.
    """
    check_lengths(first, references)
    check_lengths(second, references)
    if metric not in ("bleu", "chrf"):
        raise GraspError(f"significance: {metric!r} is neither bleu nor chrf. Use compare_scores for it.")
    if seed < 1:
        raise GraspError(f"significance: seed must be at least 1, got {seed} (0 does not fix sacreBLEU's)")
    measure = bleu_metric(tokenizer or bleu_tokenizer(language)) if metric == "bleu" else chrf_metric()
    with _sacrebleu_seed(seed):
        signatures, found = library("sacrebleu.significance").PairedTest(
            [("first", list(first)), ("second", list(second))],
            {metric: measure},
            reference_streams(references),
            test_type="ar" if test == "randomisation" else "bs",
            n_samples=resamples or 0,
        )()
    (key,) = signatures
    one, other = found[key]
    differing = sum(a != b for a, b in zip(first, second, strict=True))
    ties = 2.0 ** (1 - differing) if test == "randomisation" else float(differing == 0)
    p_value = 1.0 if one.score == other.score else min(1.0, other.p_value + ties)
    signature = f"{test}|sacrebleu|{signatures[key]}"
    return Comparison(metric, float(one.score), float(other.score), p_value, None, signature)


def _difference(first: Any, second: Any, axis: int) -> Any:
    return np.mean(second, axis=axis) - np.mean(first, axis=axis)


def _check_pairs(first: Sequence[float], second: Sequence[float], resamples: int) -> None:
    if len(first) != len(second):
        raise GraspError(f"significance: {len(first)} and {len(second)} examples: score the same ones")
    if len(first) < 2:
        raise GraspError(f"significance: needs at least 2 examples, got {len(first)}")
    if resamples < 1:
        raise GraspError(f"significance: resamples must be at least 1, got {resamples}")


@contextmanager
def _sacrebleu_seed(seed: int) -> Iterator[None]:
    """sacreBLEU takes its seed from the environment only."""
    name = "SACREBLEU_SEED"
    before = os.environ.get(name)
    os.environ[name] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
