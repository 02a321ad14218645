"""Selection and masks by the bits of floats: what sorting, `torch.where` and booleans give, bit for bit."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grasp_lora.control.bits import kth_smallest, multiply, take, zero_outside
from grasp_lora.control.blocks import Blocks
from grasp_lora.control.importance import magnitude
from grasp_lora.control.pruning import (
    _ranked,
    _sorted,
    entries_to_prune,
    masks_at,
    pieces_of,
    thresholds,
)
from grasp_lora.control.units import prune_units

A, B = (f"base_model.model.layer.lora_{factor}.default.weight" for factor in "AB")
SHAPES = {A: (5, 7), B: (6, 5)}
PARTS = {  # two sites that are cut alike, and one that is not
    layer: (
        SimpleNamespace(name="en", start=0, stop=2 - n // 2),
        SimpleNamespace(name="ar", start=2 - n // 2, stop=5),
    )
    for n, layer in enumerate(("layer", "layer1", "layer2"))
}
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
ODD = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, 1e-42, 2e-42, 6e-8, 0.1, 3.5)
RATIOS = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.99, 1.0]) | st.floats(0, 1), min_size=1, max_size=4)


@st.composite
def tensors(draw, shape, dtype):
    """Random, or of few values: ties, zeros of both signs, infinities, numbers below the normal ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    many = torch.randn(shape, generator=generator)
    few = torch.tensor(draw(st.lists(st.sampled_from(ODD), min_size=1, max_size=4)))
    chosen = few[torch.randint(len(few), shape, generator=generator)]
    mixed = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return torch.where(mixed, chosen, many).to(dtype)


def bits(tensor):
    return tensor.contiguous().view(INTEGERS[tensor.element_size()])


@given(st.data(), DTYPES, RATIOS)
def test_thresholds_and_masks_are_those_of_sorting(data, dtype, ratios):
    """As another device has them: all of a unit sorted, and every entry compared by its place, too."""
    shapes = {name.replace("layer", layer): shape for name, shape in SHAPES.items() for layer in PARTS}
    values = {name: data.draw(tensors(shape, dtype)) for name, shape in shapes.items()}
    units, dense = prune_units(values, PARTS), list(values.values())
    cuts = thresholds(dense, units, ratios)
    by_unit = [of_each_unit(dense, units, cut) for cut in cuts]
    for place, unit in enumerate(units):
        block = unit.of(dense).reshape(1, -1)
        ks = torch.tensor([[entries_to_prune(p, block.numel()) for p in ratios]])
        cut, expected = torch.stack([of_ratio[place] for of_ratio in by_unit]), _sorted(block, ks)[0]
        assert cut.dtype == expected.dtype
        assert torch.equal(bits(cut), bits(expected))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grasp_lora.control.pruning.CPU", torch.device("meta"))  # no tensor here is there
        elsewhere = thresholds(dense, units, ratios)
        for one, other in zip(elsewhere, cuts, strict=True):
            assert bits(torch.cat(one)).equal(bits(torch.cat(other)))
        together = [masks_of(dense, units, cut) for cut in cuts]
    for of_ratio, there in zip(cuts, together, strict=True):
        here = masks_of(dense, units, of_ratio)
        for unit, cut in zip(units, of_each_unit(dense, units, of_ratio), strict=True):
            kept = _ranked(magnitude(unit.of(dense).reshape(-1))) > cut
            assert torch.equal(unit.of(here).reshape(-1), kept)
            assert torch.equal(unit.of(there).reshape(-1), kept)


def of_each_unit(dense, units, cut):
    """The thresholds in the order of the units."""
    pieces = zip(pieces_of(dense, units), cut, strict=True)
    found = {i: one for (_, _, of), own in pieces for i, one in zip(of, own, strict=True)}
    return [found[i] for i in range(len(units))]


def masks_of(dense, units, cut):
    out = [torch.empty_like(t, dtype=torch.bool) for t in dense]
    masks_at(dense, units, cut, out)
    return out


@given(st.data(), st.sampled_from([torch.float32, torch.float64]), st.integers(1, 500))
def test_the_kth_smallest_is_that_of_a_sort(data, dtype, size):
    scores = magnitude(data.draw(tensors((size,), dtype)))
    ks = data.draw(st.lists(st.integers(1, size), min_size=1, max_size=5))
    expected = scores.sort().values[torch.tensor(ks) - 1]
    assert torch.equal(bits(kth_smallest(scores, ks)), bits(expected))


@given(st.data(), DTYPES)
def test_masked_entries_are_those_of_where_and_of_a_product(data, dtype):
    one, other = data.draw(tensors((5, 7), dtype)), data.draw(tensors((5, 7), dtype))
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))) < 0.5
    into, product = one.clone(), one.clone()
    take(into, other, mask)
    assert torch.equal(bits(into), bits(torch.where(mask, other, one)))
    masks = Blocks.copied([mask], [[0]])
    multiply(Blocks.copied([one], [[0]]), masks, out=[product])
    zero_outside({0: (zeroed := one.clone())}, masks)
    finite = one.isfinite()  # 0 * inf is not a number, of which there are several
    assert torch.equal(bits(product)[finite], bits(one * mask)[finite])
    assert torch.equal(product.isnan(), (one * mask).isnan())
    assert torch.equal(bits(zeroed)[finite], bits(product)[finite])
    assert torch.equal(zeroed.isnan(), product.isnan())


def test_what_is_not_a_number_is_pruned_last_and_goes_with_all():
    """Of a training that diverged: a sort puts it last, and nothing is larger than it."""
    values = {A: torch.tensor([[math.nan, 2.0, -math.nan, 1.0]])}
    units, dense = prune_units(values), list(values.values())
    cuts = thresholds(dense, units, [0.5, 0.75])
    assert cuts[0][0].tolist() == [2.0]
    assert cuts[1][0].isnan().all()
    for cut in cuts:
        assert masks_of(dense, units, cut)[0].tolist() == [[False] * 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_an_entry_of_any_width_comes_back_whole(dtype):
    into, other = torch.zeros(3, dtype=dtype), torch.tensor([-0.0, math.inf, 0.1], dtype=dtype)
    take(into, other, torch.tensor([True, True, False]))
    assert torch.equal(bits(into), bits(torch.tensor([-0.0, math.inf, 0.0], dtype=dtype)))
