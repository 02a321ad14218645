"""Significance: exact cases by hand and by enumeration, SciPy and plain loops on the rest."""

import itertools
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_lora.errors import GraspError
from grasp_lora.metrics.clusters import clusters
from grasp_lora.metrics.score import Score, over_seeds
from grasp_lora.metrics.scoring import of_corpus
from grasp_lora.metrics.significance import (
    approximate_randomisation,
    compare_corpora,
    compare_scores,
    holm,
    paired_bootstrap,
)

stats = pytest.importorskip("scipy.stats")
sacrebleu = pytest.importorskip("sacrebleu")

REFERENCE = Path(__file__).parent / "reference"
TEXTS = json.loads((REFERENCE / "texts.json").read_text(encoding="utf-8"))

FIRST = [text for language in sorted(TEXTS) for text in TEXTS[language]["predictions"]]
REFERENCES = [[text] for language in sorted(TEXTS) for text in TEXTS[language]["references"]]
SECOND = [(text, REFERENCES[i][0], text, "")[i % 4] for i, text in enumerate(FIRST)]
# p-values of sacreBLEU's own randomisation with 400 trials; the command stands beside them.
OFFICIAL = json.loads((REFERENCE / "metric_numbers.json").read_text(encoding="utf-8"))["paired"]
THIRD = [text.upper() if i % 3 else text for i, text in enumerate(SECOND)]


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
    assert approximate_randomisation(first, better, resamples=500) == 1 / 501
    p_value, interval = paired_bootstrap(first, better, resamples=500)
    assert p_value == 1 / 501
    assert interval == pytest.approx((0.1, 0.1))


def test_resamples_exactly_as_far_away_count_as_hits() -> None:
    """Of two examples one is 0.3 better: half of the resamples draw one of them twice, 0.15 from the mean."""
    p_value, _ = paired_bootstrap([0.1, 0.1], [0.1, 0.4], resamples=2000)
    assert p_value == pytest.approx(0.5, abs=0.05)


def value(metric: str, runs: list[list[str]], references: list[list[str]]) -> float:
    """By sacreBLEU's public interface, from the texts; the mean over the runs."""
    measure = sacrebleu.BLEU(tokenize="intl") if metric == "bleu" else sacrebleu.CHRF()
    streams = [[answers[0] for answers in references]]
    return fmean(measure.corpus_score(run, streams).score for run in runs)


def differences_of_all_swaps(
    metric: str, first: list[list[str]], second: list[list[str]], references: list[list[str]]
) -> list[float]:
    """For every set of examples: `second - first` once these are swapped in all runs; no swap comes first."""

    def mixed(one: list[list[str]], other: list[list[str]], swaps: tuple[bool, ...]) -> list[list[str]]:
        return [
            [b if swap else a for a, b, swap in zip(*texts, swaps, strict=True)]
            for texts in zip(one, other, strict=True)
        ]

    return [
        value(metric, mixed(second, first, swaps), references)
        - value(metric, mixed(first, second, swaps), references)
        for swaps in itertools.product((False, True), repeat=len(references))
    ]


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
@pytest.mark.parametrize(
    ("first", "second", "paired"),
    [
        ([FIRST], [SECOND], [SECOND]),
        ([FIRST, SECOND], [SECOND, THIRD], [SECOND, THIRD]),
        ([FIRST, SECOND], [THIRD], [THIRD, THIRD]),
    ],
)
def test_exact_corpus_p_values_are_those_of_all_swaps(
    metric: str, first: list[list[str]], second: list[list[str]], paired: list[list[str]]
) -> None:
    size = 7
    one, other, twin = ([run[:size] for run in runs] for runs in (first, second, paired))
    differences = np.array(differences_of_all_swaps(metric, one, twin, REFERENCES[:size]))
    wanted = np.mean(np.abs(differences) >= abs(differences[0]) - 1e-9)
    found = compare_corpora(metric, one, other, REFERENCES[:size], "ar")
    assert found.p_value == pytest.approx(wanted)
    assert found.first == pytest.approx(value(metric, one, REFERENCES[:size]))
    assert found.second == pytest.approx(value(metric, other, REFERENCES[:size]))
    swapped = compare_corpora(metric, other, one, REFERENCES[:size], "ar")
    assert (swapped.p_value, swapped.difference) == (found.p_value, -found.difference)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_random_swaps_come_near_all_of_them(metric: str) -> None:
    exact = compare_corpora(metric, FIRST[:10], SECOND[:10], REFERENCES[:10], "ar", resamples=1024)
    found = compare_corpora(metric, FIRST[:10], SECOND[:10], REFERENCES[:10], "ar", resamples=1023)
    assert 0 < exact.p_value < 1
    assert found.p_value == pytest.approx(exact.p_value, abs=0.05)
    assert found.p_value != exact.p_value


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_corpus_bootstrap_agrees_with_a_plain_one(metric: str) -> None:
    found = compare_corpora(metric, FIRST, SECOND, REFERENCES, "ar", test="bootstrap", resamples=600)
    generator = np.random.default_rng(6)
    drawn = []
    for _ in range(600):
        rows = generator.integers(len(FIRST), size=len(FIRST))
        texts = [REFERENCES[i] for i in rows]
        one, other = ([[run[i] for i in rows]] for run in (FIRST, SECOND))
        drawn.append(value(metric, other, texts) - value(metric, one, texts))
    far = np.abs(np.array(drawn) - found.difference) >= abs(found.difference)
    assert found.p_value == pytest.approx(far.mean(), abs=0.08)
    assert found.interval == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=3)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_corpus_p_values_are_near_sacrebleus_where_nothing_ties(metric: str) -> None:
    found = compare_corpora(metric, FIRST, SECOND, REFERENCES, "ar", resamples=2000)
    assert found.p_value == pytest.approx(OFFICIAL[metric], abs=0.08)  # of 400 trials: 3 deviations


@pytest.mark.parametrize(("gains", "losses", "p_value"), [(1, 0, 1.0), (2, 1, 1.0), (8, 1, 20 / 512)])
def test_ties_of_corpus_scores_count(gains: int, losses: int, p_value: float) -> None:
    """Of words that are right in one method only; others are wrong in both, by other letters in each."""
    differing = gains + losses
    right = [f"{chr(97 + i) * 4} one two three four" for i in range(12)]
    first = [*["- - - - -"] * gains, *right[gains:differing], *["x x x x x"] * (12 - differing)]
    second = [*right[:gains], *["- - - - -"] * losses, *["y y y y y"] * (12 - differing)]
    found = compare_corpora("bleu", first, second, [[text] for text in right], "en")
    assert found.p_value == p_value


def test_equal_texts_never_differ_and_the_signature_says_how_it_was_found() -> None:
    for test in ("randomisation", "bootstrap"):
        same = compare_corpora("chrf", FIRST, [FIRST] * 2, REFERENCES, "ar", test=test, resamples=50, seed=7)
        assert (same.p_value, same.difference) == (1, 0)
        assert same.signature.startswith(f"{test}:50|seed:7|scipy:")
        assert "|sacrebleu|nrefs:1|" in same.signature
    one_better = compare_corpora(
        "bleu", FIRST, [REFERENCES[0][0], *FIRST[1:]], REFERENCES, "ar", resamples=99
    )
    assert one_better.difference > 0
    assert one_better.p_value == 1


@pytest.mark.parametrize("test", ["randomisation", "bootstrap"])
def test_corpus_p_values_are_repeatable_and_depend_on_the_seed(test: Any) -> None:
    found = [
        compare_corpora("chrf", FIRST, SECOND, REFERENCES, "ar", test=test, resamples=50, seed=seed).p_value
        for seed in (1, 1, 2, 3)
    ]
    assert found[0] == found[1]
    assert len(set(found)) > 1


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
    with pytest.raises(GraspError, match="no corpus metric"):
        compare_corpora("rougeL", FIRST, SECOND, REFERENCES, "ar")
    for test in ("randomisation", "bootstrap"):
        with pytest.raises(GraspError, match="at least 2 examples that share no group, got 1"):
            compare_corpora("chrf", FIRST[:1], SECOND[:1], REFERENCES[:1], "ar", test=test)
    with pytest.raises(GraspError, match="resamples must be at least 1"):
        compare_corpora("chrf", FIRST, SECOND, REFERENCES, "ar", resamples=0)
    with pytest.raises(GraspError, match="no predictions"):
        compare_corpora("chrf", [], SECOND, REFERENCES, "ar")
    with pytest.raises(GraspError, match="predictions, but"):
        compare_corpora("chrf", [FIRST, FIRST[1:]], [SECOND], REFERENCES, "ar")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("test", [approximate_randomisation, paired_bootstrap])
def test_what_is_no_finite_number_is_refused(test: Any, value: float) -> None:
    for rows in ([1, value, 2], [2, 3, 4]), ([2, 3, 4], [1, value, 2]):
        with pytest.raises(GraspError, match="infinite or not a number"):
            test(*rows)


def test_ties_that_rounding_would_break_count() -> None:
    """Every sum of three equal differences is at least as far from 0 as one; but 10.1 - 10 is not 0.1."""
    assert approximate_randomisation([10.0, 0.0, 100.1], [10.1, 0.1, 100.0]) == 1


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


# Clusters


def test_clusters_are_swapped_together():
    """Two passages with two questions each: of four swaps two differ as much as what was seen."""
    first, second = [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 5.0]
    assert approximate_randomisation(first, second, groups=["a", "a", "b", "b"]) == pytest.approx(2 / 4)
    assert approximate_randomisation(first, second) == pytest.approx(2 / 16)
    # differences 1, -1 within "a" cancel: -4, -2 and 2, 4 in all of "b" and "c"
    mixed = [1.0, -1.0, 1.0, 3.0]
    assert approximate_randomisation(first, mixed, groups=["a", "a", "b", "c"]) == pytest.approx(4 / 8)


def test_clusters_are_drawn_together():
    """Against an own bootstrap of whole clusters: sums over sizes, since clusters differ in size."""
    generator = np.random.default_rng(0)
    groups = [str(number) for number in generator.integers(0, 8, 40)]
    second = generator.normal(0.3, 1.0, 40) + np.array([float(group) / 8 for group in groups])
    first = np.zeros(40)
    p_value, (low, high) = paired_bootstrap(first, second, groups=groups, resamples=4000, seed=5)
    sums = {g: sum(v for v, of in zip(second, groups, strict=True) if of == g) for g in set(groups)}
    names = sorted(sums)
    draws = generator.choice(names, (4000, len(names)))
    means = [sum(sums[g] for g in draw) / sum(groups.count(g) for g in draw) for draw in draws]
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.05)
    distances = np.abs(np.array(means) - second.mean())
    assert p_value == pytest.approx(np.mean(distances >= second.mean()), abs=0.02)
    alone = paired_bootstrap(first, second, resamples=4000, seed=5)[1]
    assert high - low > alone[1] - alone[0]  # what clusters share is seen once


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_corpus_of_clusters_is_one_of_longer_examples(metric):
    """Each pair of examples together has the counts of both: the same trials over half as many."""
    groups = [str(i // 2) for i in range(10)]
    found = compare_corpora(metric, FIRST[:10], SECOND[:10], REFERENCES[:10], "ar", groups=groups)
    score = of_corpus(metric)("ar", None)
    streams = [[right[0] for right in REFERENCES[:10]]]

    def value(swapped):
        answers = [(SECOND if i // 2 in swapped else FIRST)[i] for i in range(10)]
        others = [(FIRST if i // 2 in swapped else SECOND)[i] for i in range(10)]
        return abs(score.corpus_score(others, streams).score - score.corpus_score(answers, streams).score)

    observed = value(())
    swaps = [set(s) for n in range(6) for s in itertools.combinations(range(5), n)]
    hits = sum(value(s) >= observed - 1e-9 for s in swaps)
    assert found.p_value == pytest.approx(hits / 32)
    assert "clusters:5" in found.signature


def test_groups_are_as_many_as_examples():
    with pytest.raises(GraspError, match="2 examples, but 1 groups"):
        approximate_randomisation([1, 2], [2, 3], groups=["a"])
    with pytest.raises(GraspError, match="at least 2 examples that share no group"):
        paired_bootstrap([1, 2], [2, 3], groups=["a", "a"])
    assert clusters(["a", "", "", "a"], 4) == 3
    assert clusters([], 4) == 4
    assert clusters(["a", "a", "b"], 2) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_by_its_definition(p_values):
    """A hypothesis is rejected at a level if the step-down procedure rejects it there."""
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.5):
        rejected = set()
        for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[index] * (len(p_values) - rank) > level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
