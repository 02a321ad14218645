"""Scores, thresholds and masks (GRASP Secs. 3.1 and 3.3)."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from grasp_lora.control.importance import magnitude
from grasp_lora.control.pruning import entries_to_prune, masks_at, thresholds
from grasp_lora.control.units import prune_units

SITE = "model.layers.0.self_attn.q_proj"
A, B = f"base_model.model.{SITE}.lora_A.default.weight", f"base_model.model.{SITE}.lora_B.default.weight"
PARTS = {SITE: (SimpleNamespace(name="en", start=0, stop=2), SimpleNamespace(name="ar", start=2, stop=5))}
RATIO = st.floats(0, 1)


def masks(tensors, p, parts=None, unit="adapter"):
    units = prune_units(tensors, parts, unit)
    dense = list(tensors.values())
    out = [torch.empty_like(t, dtype=torch.bool) for t in dense]
    masks_at(dense, units, thresholds(dense, units, [p])[0], out)
    return out, units


def factors(seed=0, rank=5):
    generator = torch.Generator().manual_seed(seed)
    return {A: torch.randn(rank, 7, generator=generator), B: torch.randn(6, rank, generator=generator)}


def test_mask_by_hand():
    tensor = torch.tensor([[0.5, -0.1, 0.3], [-0.9, 0.2, 0.0]])
    (mask,), _ = masks({A: tensor}, 0.5)  # k = 3: 0.0, 0.1 and 0.2 go
    assert mask.tolist() == [[True, False, True], [True, False, False]]


def test_units_are_blocks_of_rows_of_A_and_columns_of_B():
    (mask_a, mask_b), units = masks(factors(), 0.5, PARTS)
    assert [u.name.removeprefix(SITE) for u in units] == [
        ".lora_A[en]",
        ".lora_A[ar]",
        ".lora_B[en]",
        ".lora_B[ar]",
    ]
    assert [(~m).sum().item() for m in (mask_a[:2], mask_a[2:], mask_b[:, :2], mask_b[:, 2:])] == [
        7,
        10,
        6,
        9,
    ]
    (whole_a, whole_b), _ = masks(factors(), 0.5, PARTS, unit="tensor")
    assert [(~m).sum().item() for m in (whole_a, whole_b)] == [17, 15]


@given(RATIO, RATIO, st.integers(0, 10**6), st.booleans())
def test_pruned_sets_are_nested_in_p(p, q, seed, with_zeros):
    tensors = {n: t.relu() if with_zeros else t for n, t in factors(seed).items()}
    low, _ = masks(tensors, min(p, q), PARTS)
    high, _ = masks(tensors, max(p, q), PARTS)
    assert all((h <= m).all() for h, m in zip(high, low, strict=True))  # kept at high p: kept at low p


@given(RATIO, st.integers(0, 10**6), st.booleans())
@example(0.5, 2726, True)  # all entries of a unit are zero
def test_exact_counts_but_for_ties_of_other_than_zeros(p, seed, with_zeros):
    tensors = {n: t.relu() if with_zeros else t for n, t in factors(seed).items()}
    out, units = masks(tensors, p, PARTS)
    for unit in units:
        block = unit.of(out)
        count = entries_to_prune(p, block.numel())
        if not unit.of(list(tensors.values())).any() and count < block.numel():
            count = 0  # an untrained unit is left alone
        assert (~block).sum().item() == count


@given(RATIO, st.floats(1e-3, 1e3))
def test_a_constant_scale_changes_nothing(p, scale):
    plain, _ = masks(factors(), p, PARTS)
    scaled, _ = masks({n: t.double() * scale for n, t in factors().items()}, p, PARTS)
    assert all(torch.equal(x, y) for x, y in zip(plain, scaled, strict=True))


def test_many_ratios_from_one_sort_equal_one_by_one():
    tensors, ratios = factors(), [0.0, 0.13, 0.5, 1.0]
    units, dense = prune_units(tensors, PARTS), list(tensors.values())
    together = thresholds(dense, units, ratios)
    for cuts, p in zip(together, ratios, strict=True):
        (alone,) = thresholds(dense, units, [p])
        assert all(torch.equal(a, b) for a, b in zip(cuts, alone, strict=True))


@pytest.mark.parametrize("here", [True, False])
def test_units_of_one_size_each_have_their_own_ratio(here, monkeypatch):
    if not here:  # as a GPU does it
        monkeypatch.setattr("grasp_lora.control.pruning.CPU", torch.device("meta"))
    parts = {SITE: (SimpleNamespace(name="en", start=0, stop=2), SimpleNamespace(name="ar", start=2, stop=4))}
    tensors = factors(rank=4)
    units, dense = prune_units(tensors, parts), list(tensors.values())
    out = [torch.empty_like(t, dtype=torch.bool) for t in dense]
    ratios = (0.25, 0.5, 0.75, 1.0)
    masks_at(dense, units, thresholds(dense, units, [ratios])[0], out)
    pruned = [(~unit.of(out)).sum().item() for unit in units]
    assert pruned == [int(p * unit.of(dense).numel()) for p, unit in zip(ratios, units, strict=True)]


def test_without_units_there_is_nothing_to_prune_at_any_ratio():
    assert thresholds([], [], [0.5, 1.0]) == [[], []]


def test_ties_are_all_pruned_but_zeros_go_by_position():
    tensor = torch.tensor([[1.0, -1.0, 1.0, 2.0]])
    assert masks({A: tensor}, 0.25)[0][0].tolist() == [[False, False, False, True]]
    some = torch.tensor([[0.0, 3.0], [-0.0, 0.0], [1.0, 2.0]])  # k = 2, then 3, then 4: the zeros in order
    assert masks({B: some}, 0.34)[0][0].tolist() == [[False, True], [False, True], [True, True]]
    assert masks({B: some}, 0.5)[0][0].tolist() == [[False, True], [False, False], [True, True]]
    assert masks({B: some}, 0.67)[0][0].tolist() == [[False, True], [False, False], [False, True]]


def test_a_unit_of_zeros_has_nothing_to_prune_by():
    zeros = torch.zeros(2, 2)
    for p in (0.0, 0.25, 0.99):
        assert masks({B: zeros}, p)[0][0].all()
    assert not masks({B: zeros}, 1.0)[0][0].any()
    half = {A: torch.cat([torch.zeros(2, 7), torch.ones(3, 7)])}  # one adapter was not trained, one was
    assert masks(half, 0.5, PARTS)[0][0].any(1).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_formats_prune_as_many(dtype):
    tensors = {n: t.to(dtype) * (torch.arange(t.numel()).view_as(t) % 3 > 0) for n, t in factors().items()}
    out, units = masks(tensors, 0.2, PARTS)  # a third is zero
    for unit in units:
        block = unit.of(out)
        assert (~block).sum().item() == entries_to_prune(0.2, block.numel())


def test_bounds():
    assert not torch.stack([m.any() for m in masks(factors(), 1.0)[0]]).any()
    assert all(m.all() for m in masks(factors(), 0.0)[0])


@given(st.integers(0, 100), st.integers(1, 5000))
def test_count_is_the_floor_of_the_decimal_product(percent, size):
    assert entries_to_prune(percent / 100, size) == int(Fraction(percent, 100) * size)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_bad_ratio(p):
    with pytest.raises(ValueError, match="prune ratio"):
        entries_to_prune(p, 10)


def test_parts_must_cover_the_rank():
    with pytest.raises(ValueError, match="do not cover"):
        prune_units(factors(rank=6), PARTS)
    with pytest.raises(ValueError, match="do not cover"):
        prune_units(factors(), {})
    with pytest.raises(ValueError, match="not a LoRA factor"):
        prune_units({"model.embed.weight": torch.ones(2, 2)})


def test_scores_are_float32_or_wider():
    assert magnitude(torch.tensor([-1.0], dtype=torch.bfloat16)).dtype == torch.float32
    assert magnitude(torch.tensor([-1.0], dtype=torch.float64)).dtype == torch.float64


def test_thresholds_are_those_of_the_same_units():
    values = [torch.ones(2, 2)]
    units = prune_units({"base_model.model.layer.lora_A.default.weight": values[0]})
    with pytest.raises(ValueError, match="shorter"):
        masks_at(values, units, [], out=[torch.empty(2, 2, dtype=torch.bool)])
