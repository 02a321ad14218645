"""One measured number, and how numbers are put together."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from grasp_lora.errors import GraspError

__all__ = ["Score", "Spread", "check_lengths", "mean_score", "over_seeds"]


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value on one set of predictions.

    Attributes:
        name: The metric, such as `rougeL`.
        value: 0..100; a rescaled BERTScore may be below 0.
        signature: All that is needed to get the same number again: tokenization, library and version.
        examples: 0..100 each, in the order of the predictions, where `value` is their mean; None for corpus
            metrics (BLEU, chrF), which are no mean of anything.
    """

    name: str
    value: float
    signature: str
    examples: tuple[float, ...] | None = None


def mean_score(name: str, shares: Sequence[float], signature: str) -> Score:
    """The score whose examples have these values, given in 0..1."""
    examples = tuple(100.0 * share for share in shares)
    # fsum: the same to the last bit in whatever order the examples stand
    return Score(name, math.fsum(examples) / len(examples), signature, examples)


class Spread(NamedTuple):
    """A value over seeds."""

    mean: float
    std: float | None  # of the sample: divided by n - 1; None for one seed
    seeds: int


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation (ddof = 1) of one value per seed.

    Raises:
        GraspError: There is no value.
    """
    if not values:
        raise GraspError("mean over seeds: there is no value. Evaluate at least one seed first.")
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, len(values))


def check_lengths(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse what cannot be scored: no predictions, unequal lengths, an example without references."""
    if not predictions:
        raise GraspError("metrics: there are no predictions. Generate some first.")
    if len(predictions) != len(references):
        raise GraspError(
            f"metrics: {len(predictions)} predictions, but {len(references)} lists of references"
        )
    for index, answers in enumerate(references):
        if isinstance(answers, str) or not answers:
            raise GraspError(f"metrics: example {index} needs a list of references, got {answers!r}")
