"""Singular values, effective ranks and lower ranks, against numbers worked by hand and delta W itself."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grasp_lora.errors import GraspError
from grasp_lora.merging.compress import (
    compressed,
    decomposed,
    difference,
    effective_rank,
    rank_for_energy,
    singular_values,
    truncated,
)
from grasp_lora.merging.reading import Factors


def factors(out=7, rank=3, width=5, scaling=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=generator) for shape in ((rank, width), (out, rank)))
    return Factors(a, b, scaling)


def delta(f):
    return f.scaling * f.B.double() @ f.A.double()


SHAPES = st.tuples(*[st.integers(1, 9)] * 3, st.floats(0.1, 8.0), st.integers(0, 10))


@given(SHAPES)
def test_singular_values_and_vectors_are_those_of_delta_w(shape):
    f = factors(*shape)
    u, values, vh = decomposed(f)
    torch.testing.assert_close(u * values @ vh, delta(f))
    expected = torch.linalg.svdvals(delta(f))
    torch.testing.assert_close(values, expected[: len(values)])
    torch.testing.assert_close(singular_values(f), values)


def test_effective_rank_by_hand():
    # p = (1/2, 1/4, 1/4): H = ln(2)/2 + 2 ln(4)/4 = 1.5 ln 2, and exp of it 2^1.5
    assert effective_rank(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)
    assert effective_rank(torch.tensor([3.0, 3.0, 3.0, 0.0])) == pytest.approx(3.0)
    assert effective_rank(torch.tensor([5.0])) == pytest.approx(1.0)
    assert effective_rank(torch.zeros(4)) == 0.0


def test_the_rank_for_an_energy_by_hand():
    values = torch.tensor([4.0, 2.0, 2.0, 1.0], dtype=torch.float64)  # squares 16, 4, 4, 1 of 25
    assert [rank_for_energy(values, share) for share in (0.5, 0.64, 0.65, 0.8, 0.96, 0.97, 1.0)] == [
        1, 1, 2, 2, 3, 4, 4,
    ]  # fmt: skip
    assert rank_for_energy(torch.zeros(3), 0.99) == 1
    assert rank_for_energy(torch.tensor([3.0, 0.0, 0.0]), 1.0) == 1


def test_lost_energy_by_hand():
    # delta W = 2 * diag(2, 1, 1): squares 16, 4, 4
    f = Factors(torch.eye(3), torch.diag(torch.tensor([2.0, 1.0, 1.0])), 2.0)
    made, lost = truncated(f, 1)
    assert lost == pytest.approx(8 / 24)
    assert made.rank == 1
    assert made.scaling == 2.0
    torch.testing.assert_close(delta(made), torch.diag(torch.tensor([4.0, 0.0, 0.0])).double())
    assert difference(f, made) == pytest.approx(math.sqrt(8 / 24))


@given(SHAPES, st.integers(1, 9))
def test_nothing_of_that_rank_is_nearer(shape, rank):
    f = factors(*shape)
    made, lost = truncated(f, rank)
    assert made.rank == min(rank, *shape[:3])
    u, s, vh = torch.linalg.svd(delta(f), full_matrices=False)
    best = u[:, :rank] * s[:rank] @ vh[:rank]
    torch.testing.assert_close(delta(made), best, rtol=1e-5, atol=1e-5 * float(s[0]))
    assert lost == pytest.approx(float(s[rank:].square().sum() / s.square().sum()), abs=1e-12)
    assert difference(f, made) == pytest.approx(math.sqrt(lost), abs=1e-5)


def test_a_change_of_nothing():
    zero = Factors(torch.ones(2, 4), torch.zeros(3, 2), 1.0)
    made, lost = truncated(zero, 1)
    assert lost == 0.0
    assert not delta(made).any()
    assert difference(zero, made) == 0.0
    assert difference(zero, factors(3, 2, 4)) == math.inf


def test_each_site_gets_the_rank_that_it_needs():
    flat = Factors(torch.eye(3), torch.eye(3), 1.0)
    steep = Factors(torch.eye(3), torch.diag(torch.tensor([10.0, 1.0, 0.1])), 1.0)
    made, lost = compressed({"flat": flat, "steep": steep}, energy=0.9)
    assert {site: one.rank for site, one in made.items()} == {"flat": 3, "steep": 1}
    assert lost["steep"].energy == pytest.approx(1.01 / 101.01)
    assert (lost["steep"].before, lost["steep"].rank) == (3, 1)


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ({}, "give a rank, or the share"),
        ({"rank": 1, "energy": 0.9}, "and not both"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 0.0}, "at most 1"),
        ({"energy": 99.0}, "such as 0.99; got 99"),
    ],
)
def test_numbers_that_mean_nothing(given_, reason):
    with pytest.raises(GraspError, match=reason):
        compressed({"site": factors()}, **given_)
