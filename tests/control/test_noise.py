"""How sure the controller can be: errors of probes, rules that use all of them, a look at dev, warnings."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_lora import GraspError
from grasp_lora.control.noise import Look, detectable, paired_error
from grasp_lora.control.rounds import Probe, Round
from grasp_lora.control.selection import select_ratio
from grasp_lora.control.warnings import warnings_of


def made(probes, *, base=-2.0, p_curr=0.4, sigma=0.1, error=0.1, number=1):
    """A round whose probes are (p, absolute reward)."""
    probes = tuple(
        Probe(p, p, reward - base, error(i) if callable(error) else error)
        for i, (p, reward) in enumerate(probes)
    )
    return Round(number, number, p_curr, 0.4, sigma, base, probes, True, 0.5, 0.45, sigma)


def test_the_paired_error_by_hand():
    """Differences 1, 2, 3: deviation 1, over the root of 3."""
    assert paired_error([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert paired_error([1.0], [2.0]) is None
    with pytest.raises(ValueError, match="zip"):
        paired_error([1.0], [1.0, 2.0])
    assert detectable(0.1) == pytest.approx(0.28)


def test_rows_of_one_group_are_one_cluster():
    """By hand: about their mean the pairs sum to -2 and 2, over four rows."""
    first, second = [1.0, 2.0, 3.0, 4.0], [0.0] * 4
    by_pair = paired_error(first, second, ["a", "a", "b", "b"])
    assert by_pair == pytest.approx(math.sqrt((4 + 4) * 2 / 1) / 4)
    assert paired_error(first, second, ["", "", "", ""]) == paired_error(first, second)
    assert paired_error(first, second, ["a"] * 4) is None
    look = Look(0.5, {0.0: second, 0.5: first}, {}, groups=("a", "a", "b", "b"))
    assert look.difference(0.5, 0.0)[2] == pytest.approx(2.5 + 1.96 * by_pair)


# Rules that use all probes


@given(
    st.floats(0.15, 0.75),
    st.lists(st.floats(-5, 5), min_size=1, max_size=4),
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=5, unique_by=lambda p: round(p, 2)),
)
def test_the_curve_finds_the_top_of_a_parabola_whatever_the_offsets(top, offsets, ratios):
    def reward(p, offset):
        return offset - 3.0 * (p - top) ** 2

    ratios = [0.1, *ratios, 0.9]
    rounds = [
        made([(p, reward(p, o)) for p in ratios], base=reward(0.4, o), number=i)
        for i, o in enumerate(offsets)
    ]
    assert select_ratio(rounds, "curve").best_ratio == pytest.approx(top, abs=1e-6)


def test_a_curve_without_a_top_has_its_best_end():
    falling, valley = ([(p, f(p)) for p in (0.1, 0.5, 0.9)] for f in (lambda p: -p, lambda p: (p - 0.6) ** 2))
    assert select_ratio([made(falling, base=-0.4)], "curve").best_ratio == 0.1
    assert select_ratio([made(valley, base=0.04)], "curve").best_ratio == 0.1


def test_a_curve_of_few_ratios_is_a_line_or_a_point():
    assert select_ratio([made([(0.6, -1.0), (0.6, -1.0)])], "curve").best_ratio == 0.6
    assert select_ratio([made([(0.4, -2.0)])], "curve").best_ratio == 0.4


def test_the_fit_is_weighted_least_squares():
    """Against numpy's on the weighted rows; the second round's probes are half as sure."""
    generator = np.random.default_rng(0)
    rounds = [
        made(
            [(p, float(r)) for p, r in zip((0.2, 0.5, 0.8), generator.normal(size=3), strict=True)],
            base=float(generator.normal()),
            error=error,
            number=i,
        )
        for i, error in enumerate((0.5, 1.0))
    ]
    rows, values, weights = [], [], []
    for i, one in enumerate(rounds):
        for p, r in [(one.p_curr, one.base_reward), *((x.p, one.base_reward + x.reward) for x in one.probes)]:
            rows.append([i == 0, i == 1, p, p * p])
            values.append(r)
            weights.append((2.0, 1.0)[i])
    root = np.array(weights)
    _, _, b, c = np.linalg.lstsq(np.array(rows, float) * root[:, None], np.array(values) * root, rcond=None)[
        0
    ]
    top = -b / (2 * c)
    ends = {p: b * p + c * p * p for p in (0.2, 0.8)}
    expected = top if c < 0 and 0.2 < top < 0.8 else max(ends, key=ends.get)
    assert select_ratio(rounds, "curve").best_ratio == pytest.approx(expected)


def test_the_sparsest_is_within_the_margin_of_the_top():
    """No noise at all: 3 (p - 0.4)^2 <= 0.03 up to p = 0.5."""
    rounds = [made([(p, -3 * (p - 0.4) ** 2) for p in (0.1, 0.3, 0.6, 0.9)], base=0.0)]
    assert select_ratio(rounds, "sparsest", 0.03).best_ratio == pytest.approx(0.5, abs=1e-3)
    assert select_ratio(rounds, "sparsest", 0.0).best_ratio == pytest.approx(0.4, abs=1e-3)


def test_the_sparsest_is_as_sparse_as_noise_allows():
    def rounds(noise):
        probes = [(p, -3 * (p - 0.4) ** 2 + noise * (-1) ** i) for i, p in enumerate((0.1, 0.3, 0.6, 0.9))]
        return [made(probes, base=-noise, number=i) for i in range(3)]

    found = [select_ratio(rounds(noise), "sparsest", 0.0).best_ratio for noise in (0.0, 0.05, 0.5)]
    assert found == sorted(found)
    assert found[0] < found[-1] <= 0.9


def test_no_round_weighs_more_than_ten_times_the_usual_one():
    """Probes beside the committed ratio are sure of next to nothing."""

    def rounds(error):
        far = [
            made([(p, -((p - 0.5) ** 2)) for p in (0.1, 0.6, 0.9)], base=-0.01, number=i) for i in range(3)
        ]
        return [*far, made([(0.400001, -1.0), (0.399999, -1.2)], base=-1.1, error=error, number=3)]

    assert select_ratio(rounds(1e-9), "curve") != select_ratio(rounds(1.0), "curve")
    floor = math.sqrt(0.1 * 0.1 / 10)
    assert select_ratio(rounds(1e-9), "curve").best_ratio == select_ratio(rounds(floor), "curve").best_ratio


def test_rounds_without_errors_weigh_alike():
    rounds = [made([(p, -((p - 0.5) ** 2)) for p in (0.1, 0.6, 0.9)], base=-0.01, error=None)]
    assert select_ratio(rounds, "curve").best_ratio == pytest.approx(0.5)
    sure = [made([(0.1, -0.3), (0.9, -0.2)], base=-0.1, error=0.0)]
    assert 0.1 <= select_ratio(sure, "curve").best_ratio <= 0.9


# A look at dev


LOOK = Look(0.5, {0.0: (1.0, 2.0, 3.0), 0.5: (1.1, 2.3, 3.2), 0.6: (0.0, 1.0, 2.0)}, {}, margin=0.01)


def test_a_look_by_hand():
    """0.5 less 0.0 is 0.1, 0.3, 0.2: mean 0.2, standard error 0.1 / sqrt(3)."""
    mean, low, high = LOOK.difference(0.5, 0.0)
    assert mean == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.2 - 1.96 * 0.1 / math.sqrt(3), 0.2 + 1.96 * 0.1 / math.sqrt(3)))
    assert LOOK.best == 0.5
    assert not LOOK.is_close(0.5, 0.0)
    assert LOOK.range == (0.5, 0.5)
    assert LOOK.detectable == pytest.approx(2.8 * 0.1 / math.sqrt(3))


def test_the_margin_and_noise_make_ratios_close():
    wide = Look(0.5, LOOK.dev, {}, margin=0.21)
    assert wide.range == (0.0, 0.5)
    noisy = Look(0.5, {0.0: (1.0, 2.0), 0.5: (3.0, 1.0)}, {}, margin=0.0)
    assert noisy.range == (0.0, 0.5)


def test_a_look_is_read_as_it_was_written(tmp_path):
    look = Look(0.5, {0.0: (1.0, 2.0), 0.5: (0.5, 2.0)}, {0.0: (1.0,), 0.5: (2.0,)}, 0.02)
    look.write(tmp_path)
    assert Look.read(tmp_path) == look
    assert json.loads((tmp_path / "on_dev.json").read_text())["label"] == "before fine-tuning"
    (tmp_path / "on_dev.json").write_text("{}")
    with pytest.raises(GraspError, match=r"on_dev\.json cannot be read"):
        Look.read(tmp_path)
    for damaged in (
        Look(0.5, look.dev, look.micro_dev, math.nan),
        Look(0.5, look.dev, {0.0: (math.inf,), 0.5: (2.0,)}),
        Look(0.5, {**look.dev, math.inf: (1.0, 1.0)}, look.micro_dev),
    ):
        damaged.write(tmp_path)
        with pytest.raises(GraspError, match=r"a number that is not finite"):
            Look.read(tmp_path)
    text = json.dumps({"p": 0.5, "margin": 10**400, "groups": [], "dev": {}, "micro_dev": {}})
    (tmp_path / "on_dev.json").write_text(text)
    with pytest.raises(GraspError, match=r"too large"):
        Look.read(tmp_path)
    assert Look.read(tmp_path / "elsewhere") is None


# Warnings: each with a log that has it, and the plain one that has none


def plain(count=10, clamped=0, sigma=0.1):
    rounds = [made([(0.3, -2.1), (0.5, -1.9), (0.6, -2.2)], sigma=sigma, number=i + 1) for i in range(count)]
    if clamped:
        probes = tuple(Probe(1.5, 0.8, -0.1) for _ in range(3))
        for i in range(clamped):
            object.__setattr__(rounds[i], "probes", probes)
    return rounds


FAR = Look(0.5, {0.0: (1.0, 2.0), 0.4: (1.1, 2.1), 0.5: (2.0, 3.0)}, {0.0: (1.0,), 0.4: (1.2,), 0.5: (1.4,)})


def test_a_plain_log_has_no_warning():
    assert warnings_of(0.5, plain(), 0.1, 0.8, FAR) == []
    assert warnings_of(0.5, plain(), 0.1, 0.8) == []


@pytest.mark.parametrize(
    ("p", "rounds", "look", "words"),
    [
        (0.5, plain(9), FAR, "from 27 probes, fewer than 30"),
        (0.5, plain(clamped=4), FAR, "12 of 30 candidates were clamped to [0.1, 0.8]"),
        (0.5, plain(sigma=0.71), FAR, "spread grew to 0.71, past its whole range"),
        (0.8, plain(), FAR, "p* = 0.800 is at a bound of [0.1, 0.8]"),
        (0.1, plain(), FAR, "p* = 0.100 is at a bound"),
        (
            0.5,
            plain(),
            Look(0.5, {0.0: (1.0, 2.0), 0.5: (1.005, 2.004)}, {}),
            "p* = 0.500 differs from no pruning at all by less than the margin of 0.01 on 2 dev rows",
        ),
        (
            0.5,
            plain(),
            Look(0.5, FAR.dev, {0.0: (1.4,), 0.4: (1.2,), 0.5: (1.0,)}),
            "dev and micro-dev disagree about the order of 0.00, 0.40, 0.50 (Spearman's rho -1.00)",
        ),
    ],
)
def test_each_warning(p, rounds, look, words):
    found = warnings_of(p, rounds, 0.1, 0.8, look)
    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("pruned", "words"),
    [
        (
            (1.5, 1.6),
            "cannot be told from no pruning at all on 2 dev rows, before fine-tuning: loss -0.0500 [",
        ),
        (
            (0.5, 1.5),
            "is worse than no pruning at all on 2 dev rows, before fine-tuning: loss +0.5000 [+0.5000,",
        ),
        ((1.5, 2.5), None),
    ],
)
def test_p_star_against_no_pruning(pruned, words):
    look = Look(0.5, {0.0: (1.0, 2.0), 0.5: pruned}, {})
    found = warnings_of(0.5, plain(), 0.1, 0.8, look)
    assert [words in text for text in found] == ([] if words is None else [True])


def test_one_dev_row_tells_nothing():
    look = Look(0.5, {0.0: (1.0,), 0.5: (3.0,)}, {})
    assert look.range == (0.0, 0.5)
    assert look.detectable == math.inf
    (found,) = warnings_of(0.5, plain(), 0.1, 0.8, look)
    assert found.endswith("on 1 dev row, before fine-tuning: loss -2.0000 [-inf, +inf]")


def test_the_edges_of_warnings():
    """Ten of thirty are a third and no more; a spread as wide as the range; a range of one ratio."""
    rounds = plain()
    for one in rounds:
        first = Probe(1.5, 0.8, -0.1)
        object.__setattr__(one, "probes", (first, *one.probes[1:]))
    assert warnings_of(0.5, rounds, 0.1, 0.8, FAR) == []
    assert warnings_of(0.5, plain(sigma=0.7), 0.1, 0.8, FAR) == []
    assert warnings_of(0.5, plain(), 0.5, 0.5, FAR) == [
        "the policy's spread grew to 0.10, past its whole range: it knows nothing"
    ]
    unpruned = Look(0.0, FAR.dev, FAR.micro_dev)
    assert warnings_of(0.0, plain(), 0.1, 0.8, unpruned) == []
