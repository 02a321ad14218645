"""Significance: exact cases by hand and by enumeration, SciPy and sacreBLEU on the rest."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_lora.errors import GraspError
from grasp_lora.metrics.score import Score, over_seeds
from grasp_lora.metrics.significance import (
    approximate_randomisation,
    compare_corpora,
    compare_scores,
    paired_bootstrap,
)

stats = pytest.importorskip("scipy.stats")
pytest.importorskip("sacrebleu")

REFERENCE = Path(__file__).parent / "reference"
TEXTS = json.loads((REFERENCE / "texts.json").read_text(encoding="utf-8"))
# The commands that made the numbers stand beside them; make_metric_numbers.py runs them.
NUMBERS = json.loads((REFERENCE / "metric_numbers.json").read_text(encoding="utf-8"))["paired"]

FIRST = [text for language in sorted(TEXTS) for text in TEXTS[language]["predictions"]]
REFERENCES = [[text] for language in sorted(TEXTS) for text in TEXTS[language]["references"]]
SECOND = [(text, REFERENCES[i][0], text, "")[i % 4] for i, text in enumerate(FIRST)]
DIFFERING = sum(a != b for a, b in zip(FIRST, SECOND, strict=True))


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        # All 8 signs of (1, 2, 3): only +++ and --- reach a sum of 6.
        ([1, 2, 3], 2 / 8),
        # The sums of (3, 1, 1, 1) over 16 signs: 6 once, 4 three times, and their mirror images; 4 is seen.
        ([3, 1, 1, -1], 8 / 16),
        # Every sum of three ones is at least 1 from 0.
        ([1, 1, -1], 1.0),
        ([0, 0, 0], 1.0),
        ([0, 0, 5], 1.0),
    ],
)
def test_few_examples_give_the_exact_p_value(differences: list[float], p_value: float) -> None:
    base = [10.0] * len(differences)
    moved = [old + by for old, by in zip(base, differences, strict=True)]
    assert approximate_randomisation(base, moved) == pytest.approx(p_value)
    assert approximate_randomisation(moved, base) == pytest.approx(p_value)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=7))
def test_exact_p_values_are_those_of_all_sign_changes(rows: list[tuple[int, int]]) -> None:
    differences = [b - a for a, b in rows]
    sums = [
        abs(sum(sign * by for sign, by in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(rows))
    ]
    wanted = sum(found >= abs(sum(differences)) for found in sums) / len(sums)
    first, second = ([float(row[side]) for row in rows] for side in (0, 1))
    assert approximate_randomisation(first, second) == pytest.approx(wanted)


def sample(shift: float, size: int = 60) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(3)
    first = generator.normal(50, 10, size)
    return first.tolist(), (first + generator.normal(shift, 4, size)).tolist()


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_randomisation_agrees_with_scipy_and_with_the_t_test(shift: float) -> None:
    first, second = sample(shift)
    found = approximate_randomisation(first, second, resamples=4000, seed=5)
    again = stats.permutation_test(
        (np.array(second) - np.array(first),),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=4000,
        rng=np.random.default_rng(6),
    )
    assert found == pytest.approx(again.pvalue, abs=0.03)
    assert found == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=0.03)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_bootstrap_agrees_with_a_plain_one(shift: float) -> None:
    first, second = sample(shift)
    p_value, (low, high) = paired_bootstrap(first, second, resamples=4000, seed=5)
    differences = np.array(second) - np.array(first)
    generator = np.random.default_rng(6)
    means = np.array([generator.choice(differences, len(differences)).mean() for _ in range(4000)])
    assert [low, high] == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist(), abs=0.1)
    far = np.abs(means - differences.mean()) >= abs(differences.mean())
    assert p_value == pytest.approx(far.mean(), abs=0.03)
    assert low < differences.mean() < high


@pytest.mark.parametrize("test", [approximate_randomisation, paired_bootstrap])
def test_p_values_are_repeatable_and_depend_on_the_seed(test: Any) -> None:
    first, second = sample(1.0)
    runs = [test(first, second, resamples=200, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_method_never_differs_from_itself_and_a_constant_gain_is_no_luck() -> None:
    first, _ = sample(0.0)
    assert approximate_randomisation(first, first, resamples=500) == 1
    assert paired_bootstrap(first, first, resamples=500) == (1, (0, 0))
    better = [value + 0.1 for value in first]
    assert approximate_randomisation(first, better, resamples=500) == pytest.approx(2 / 501)
    p_value, interval = paired_bootstrap(first, better, resamples=500)
    assert p_value == 1 / 501
    assert interval == pytest.approx((0.1, 0.1))


def test_resamples_exactly_as_far_away_count_as_hits() -> None:
    """Of two examples one is 0.3 better: half of the resamples draw one of them twice, 0.15 from the mean."""
    p_value, _ = paired_bootstrap([0.1, 0.1], [0.1, 0.4], resamples=2000)
    assert p_value == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
@pytest.mark.parametrize(("test", "short"), [("randomisation", "ar"), ("bootstrap", "bs")])
def test_corpus_tests_are_sacrebleus(test: Any, short: str, metric: str) -> None:
    found = compare_corpora(metric, FIRST, SECOND, REFERENCES, "ar", test=test, resamples=400, seed=7)
    ties = 2.0 ** (1 - DIFFERING) if short == "ar" else 0
    assert found.p_value - ties == pytest.approx(NUMBERS[short][metric], abs=5e-5)
    assert 0 < found.second < found.first < 100
    assert found.difference == found.second - found.first
    assert f"{test}|sacrebleu|nrefs:1|{short}:400|seed:7|" in found.signature
    assert "SACREBLEU_SEED" not in os.environ


@pytest.mark.parametrize("test", ["randomisation", "bootstrap"])
def test_corpora_that_are_alike_are_not_found_different(test: Any) -> None:
    """By itself sacreBLEU's randomisation says p = 1 / (n + 1) to both."""
    same = compare_corpora("chrf", FIRST, FIRST, REFERENCES, "ar", test=test, resamples=50)
    assert (same.p_value, same.difference) == (1, 0)
    one_better = [REFERENCES[0][0], *FIRST[1:]]
    found = compare_corpora("bleu", FIRST, one_better, REFERENCES, "ar", test=test, resamples=200)
    assert found.difference > 0
    assert found.p_value > 0.05
    if test == "randomisation":
        assert found.p_value == 1


def test_the_callers_sacrebleu_seed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", "99")
    found = [
        compare_corpora("chrf", FIRST, SECOND, REFERENCES, "ar", resamples=50, seed=seed).p_value
        for seed in (1, 1, 2, 3)
    ]
    assert found[0] == found[1]
    assert len(set(found)) > 1
    assert os.environ["SACREBLEU_SEED"] == "99"


def score(values: list[float], name: str = "rougeL", signature: str = "s") -> Score:
    return Score(name, sum(values) / len(values), signature, tuple(values))


def test_comparing_scores() -> None:
    first, second = score([10, 20, 30]), score([11, 22, 33])
    found = compare_scores(first, second)
    assert (found.metric, found.difference, found.p_value, found.interval) == ("rougeL", 2, 0.25, None)
    assert found.signature.startswith("randomisation:10000|seed:1|scipy:")
    assert found.signature.endswith("|s")
    found = compare_scores(first, second, test="bootstrap", resamples=100)
    assert found.interval is not None
    assert 1 <= found.interval[0] < 2 < found.interval[1] <= 3


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (score([1, 2], name="em"), "cannot compare rougeL"),
        (score([1, 2], signature="t"), r"cannot compare rougeL \(s\) with rougeL \(t\)"),
        (score([1, 2, 3]), "2 and 3 examples"),
        (Score("rougeL", 1, "s"), "use compare_corpora"),
    ],
)
def test_what_cannot_be_compared_is_refused(second: Score, message: str) -> None:
    with pytest.raises(GraspError, match=message):
        compare_scores(score([1, 2]), second)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(GraspError, match="at least 2 examples"):
        approximate_randomisation([1.0], [2.0])
    with pytest.raises(GraspError, match="resamples must be at least 1"):
        paired_bootstrap([1.0, 2.0], [2.0, 3.0], resamples=0)
    with pytest.raises(GraspError, match="neither bleu nor chrf"):
        compare_corpora("rougeL", FIRST, SECOND, REFERENCES, "ar")
    with pytest.raises(GraspError, match="seed must be at least 1"):
        compare_corpora("chrf", FIRST, SECOND, REFERENCES, "ar", seed=0)


def test_mean_and_sample_deviation_over_seeds() -> None:
    assert over_seeds([2.0, 4.0, 9.0]) == (5.0, pytest.approx(13**0.5), 3)  # (9 + 1 + 16) / 2
    assert over_seeds([7.5]) == (7.5, None, 1)
    with pytest.raises(GraspError, match="no value"):
        over_seeds([])


@pytest.mark.parametrize("test", ["randomisation", "bootstrap"])
def test_equal_corpus_scores_do_not_differ_whatever_was_predicted(test: Any) -> None:
    references = [["one two three four five"], ["six seven eight nine ten"], ["a b c d e"]]
    found = compare_corpora(
        "bleu", ["x", "y", "z"], ["u", "v", "w"], references, "en", test=test, resamples=50
    )
    assert (found.first, found.second, found.p_value) == (0.0, 0.0, 1.0)
