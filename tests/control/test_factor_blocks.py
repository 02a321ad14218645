"""Factors in blocks: a GPU's way to make masks, which a CPU can walk, too, changes no bit."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grasp_lora.control import blocks, pruning
from grasp_lora.control.blocks import Blocks, alike
from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.units import Pruning, prune_units
from grasp_lora.ratios import as_ratio

ELSEWHERE = torch.device("meta")  # no tensor of these tests is there


def adapter():
    """Sites of two widths, one of them cut at another place, one of another type, units of more entries than
    a byte counts, and some zeros.
    """
    generator = torch.Generator().manual_seed(0)
    factors, parts = {}, {}
    for n, width in enumerate((300, 300, 4, 300, 300)):
        site, cut = f"layers.{n}.q_proj", 1 if n == 3 else 2
        names = (("en", 0, cut), ("ar", cut, 4))
        parts[site] = [SimpleNamespace(name=name, start=start, stop=stop) for name, start, stop in names]
        for factor, shape in (("A", (4, 5)), ("B", (width, 4))):
            weight = torch.randn(shape, generator=generator).to(torch.float64 if n == 4 else torch.float32)
            weight[:1] *= n % 2
            factors[f"base_model.model.{site}.lora_{factor}.default.weight"] = nn.Parameter(weight)
    return factors, parts


def life(refresh):
    """All that a mask does to an adapter and its optimizer, in the order of a training."""
    factors, parts = adapter()
    optimizer = torch.optim.AdamW(factors.values(), lr=0.1)
    masked = MaskedAdapter(factors, Pruning(parts, importance_refresh=refresh))
    seen = [*factors.values()]
    for p in (0.3, as_ratio([0.5, 0.2]), 0.7, 0.0):
        for factor in [*factors.values()][1:]:  # nothing is remembered of the first one
            factor.grad = factor.detach().cos()
        optimizer.step()
        masked.zero_pruned()
        seen += [torch.tensor(masked.commit(p, optimizer)), torch.tensor([*masked.pruned_shares().values()])]
        with masked.probing([0.1, as_ratio([0.9, 0.0]), 1.0]) as apply:
            for i in (2, 0, 1):
                apply(i)
                seen += factors.values()
        seen += masked.state_dict().values()
        seen += [value for state in optimizer.state.values() for value in state.values()]
        seen = [value.detach().clone() for value in seen]
    return seen


@pytest.mark.parametrize("refresh", ["round", "start"])
@pytest.mark.parametrize("most", [1, 60, 1 << 20])
def test_blocks_change_no_bit(refresh, most, monkeypatch):
    monkeypatch.setattr(blocks, "MOST", most)
    monkeypatch.setattr(pruning, "SORTED", most)
    here = life(refresh)
    for module in ("bits", "pruning"):
        monkeypatch.setattr(f"grasp_lora.control.{module}.CPU", ELSEWHERE)
    there = life(refresh)
    assert len(here) == len(there)
    assert all(a.equal(b) and a.signbit().equal(b.signbit()) for a, b in zip(here, there, strict=True))


def test_a_state_from_before_any_commit_is_one_again():
    factors, parts = adapter()
    masked = MaskedAdapter(factors, Pruning(parts))
    state = {name: value.clone() for name, value in masked.state_dict().items()}
    masked.commit(0.2)
    assert masked.commit(0.5)[0] > 0.25
    masks = [*masked.masks().values()]
    shares = {unit.name: 1 - unit.of(masks).double().mean().item() for unit in masked.units}
    assert masked.pruned_shares() == pytest.approx(shares)
    masked.load_state_dict(state)
    assert masked.commit(0.5) == (0.0, 0.0)  # no mask was there before


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=9), st.integers(1, 20))
def test_every_tensor_is_a_view_of_one_block(shapes, most):
    tensors = [torch.full(shape, float(i)) for i, shape in enumerate(shapes)]
    units = prune_units({f"layers.{i}.lora_A.default.weight": t for i, t in enumerate(tensors)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MOST", most)
        order = alike(tensors, units)
    found = Blocks.copied(tensors, order)
    assert sorted(i for of in order for i in of) == [*range(len(tensors))]
    assert all(len(of) == 1 or block.numel() <= most for of, block in zip(order, found.blocks, strict=True))
    assert all(a.equal(b) for a, b in zip(found, tensors, strict=True))
    for i, tensor in enumerate(found.map(torch.neg)):
        assert tensor.equal(-tensors[i])
    for tensor in found:
        tensor.zero_()
    assert not any(block.any() for block in found.blocks)
