"""What a run found, method by method: the numbers behind its tables."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from grasp_lora.cost import PEAKS, SUMMED
from grasp_lora.metrics.score import Score, Spread, over_seeds
from grasp_lora.metrics.significance import Comparison, Test, compare_corpora, compare_scores

__all__ = ["LOSSES", "MethodResult", "compare_methods", "write_comparisons", "write_costs", "write_scores"]

LOSSES = ("dev_loss", "test_loss")  # nats per target token


@dataclass(frozen=True, slots=True)
class MethodResult:
    """One method of a run, over its seeds; per-seed tuples are in the order of `seeds`.

    Attributes:
        method: Its name in the config.
        title: What it is called where people read.
        p: The prune ratio of the first seed's adapter, where the method has one.
        seeds: Of the final runs; one for a method without any training of its own.
        scores: `scores.json` by seed.
        costs: The totals of `cost.json` by seed.
        predictions: The rows of `predictions.jsonl` by seed.
    """

    method: str
    title: str
    p: float | None
    seeds: tuple[int, ...]
    scores: tuple[Mapping[str, Any], ...]
    costs: tuple[Mapping[str, float], ...]
    predictions: tuple[Sequence[Mapping[str, Any]], ...]

    def spread(self, metric: str) -> Spread:
        """Mean and standard deviation over the seeds of a loss or a metric."""
        return over_seeds([self._value(score, metric) for score in self.scores])

    def cost(self, name: str) -> float:
        """What the search, if any, and the first seed's training took together."""
        return self.costs[0][name]

    def passes(self) -> float:
        """Forward and backward passes counted alike: with a frozen backbone they cost about as much."""
        return self.cost("forward_examples") + self.cost("backward_examples")

    def by_example(self, metric: str) -> Score | None:
        """Each example's mean over the seeds; None for corpus metrics, which have no value per example.

        Runs with other seeds on the same example are no independent examples, so a test must see them as one.
        """
        if metric == "test_loss":
            rows, signature = [score["test_losses"] for score in self.scores], "nats per target token"
        else:
            found = [score["metrics"][metric] for score in self.scores]
            if found[0]["examples"] is None:
                return None
            rows, signature = [score["examples"] for score in found], found[0]["signature"]
        means = tuple(fmean(values) for values in zip(*rows, strict=True))
        return Score(metric, math.fsum(means) / len(means), signature, means)

    @staticmethod
    def _value(score: Mapping[str, Any], metric: str) -> float:
        return float(score[metric] if metric in LOSSES else score["metrics"][metric]["value"])


def compare_methods(
    first: MethodResult,
    second: MethodResult,
    metric: str,
    language: str,
    *,
    test: Test = "randomisation",
    resamples: int = 10_000,
) -> Comparison:
    """Is the difference of two methods more than luck? Over examples, each with its mean over the seeds.

    BLEU and chrF have no value per example: there an example's answers of all seeds are swapped together.

    Args:
        metric: "test_loss" or a metric that both were scored with.
        language: The target's; chooses BLEU's tokenizer.
        resamples: Trials.
    """
    one, other = first.by_example(metric), second.by_example(metric)
    if one is not None and other is not None:
        return compare_scores(one, other, test=test, resamples=resamples)
    return compare_corpora(
        metric,
        [[row["prediction"] for row in rows] for rows in first.predictions],
        [[row["prediction"] for row in rows] for rows in second.predictions],
        [row["references"] for row in first.predictions[0]],
        language,
        test=test,
        resamples=resamples,
    )


def write_scores(path: Path, results: Sequence[MethodResult], metrics: Sequence[str]) -> None:
    """One row per method, seed and metric."""
    rows = [
        (result.method, seed, metric, result._value(score, metric))
        for result in results
        for seed, score in zip(result.seeds, result.scores, strict=True)
        for metric in (*LOSSES, *metrics)
    ]
    _write(path, ("method", "seed", "metric", "value"), rows)


def write_costs(path: Path, results: Sequence[MethodResult]) -> None:
    """One row per method and seed."""
    names = (*SUMMED, *PEAKS)
    rows = [
        (result.method, seed, *(cost[name] for name in names))
        for result in results
        for seed, cost in zip(result.seeds, result.costs, strict=True)
    ]
    _write(path, ("method", "seed", *names), rows)


def write_comparisons(path: Path, found: Mapping[tuple[str, str], Sequence[Comparison]]) -> None:
    """One row per pair of methods and metric."""
    rows = [
        (*pair, c.metric, c.first, c.second, c.difference, c.p_value, c.signature)
        for pair, comparisons in found.items()
        for c in comparisons
    ]
    values = ("metric", "first_value", "second_value", "difference", "p_value", "signature")
    _write(path, ("first", "second", *values), rows)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
