"""One ratio for each adapter of a merge: masks of units; what is written where an adapter is pruned whole."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file
from tests.helpers.models import random_adapter, tiny_llama, tokens
from torch import nn

from grasp_lora import merge_adapters
from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.units import Pruning, adapter_parameters, names_of_parts, site_of
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import save_adapter
from grasp_lora.merging.gone import drop_parts
from grasp_lora.merging.parts import read_parts
from grasp_lora.merging.reading import read_adapters
from grasp_lora.ratios import (
    PerAdapter,
    PruneRatio,
    as_ratio,
    in_order,
    per_adapter,
    prunes,
    shown_ratio,
    spread,
)
from grasp_lora.workspace.pruned import say_what_mask_pruned
from grasp_lora.workspace.records import Pruned

A = "base_model.model.layer.lora_A.default.weight"
B = "base_model.model.layer.lora_B.default.weight"
PARTS = {"layer": (SimpleNamespace(name="en", start=0, stop=2), SimpleNamespace(name="ar", start=2, stop=5))}
RATIO = st.floats(0, 1).map(lambda p: round(p, 3))


def masked(seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        A: nn.Parameter(torch.randn(5, 6, generator=generator)),
        B: nn.Parameter(torch.randn(7, 5, generator=generator)),
    }
    return tensors, MaskedAdapter(tensors, Pruning(PARTS))


def at(ratio, seed=0):
    _, adapter = masked(seed)
    adapter.commit(ratio)
    return list(adapter.masks().values())


@given(RATIO, RATIO, st.integers(0, 99))
def test_each_adapter_is_pruned_as_the_whole_would_be_at_its_ratio(p, q, seed):
    if p == q == 1.0:
        return
    mixed, first, second = at(PerAdapter((p, q)), seed), at(p, seed), at(q, seed)
    assert torch.equal(mixed[0][:2], first[0][:2])
    assert torch.equal(mixed[0][2:], second[0][2:])
    assert torch.equal(mixed[1][:, :2], first[1][:, :2])
    assert torch.equal(mixed[1][:, 2:], second[1][:, 2:])


@given(RATIO, st.integers(0, 99))
def test_equal_ratios_are_the_one_ratio(p, seed):
    if p < 1.0:
        for one, other in zip(at(PerAdapter((p, p)), seed), at(p, seed), strict=True):
            assert torch.equal(one, other)


def test_shares_by_hand():
    _, adapter = masked()
    adapter.commit(PerAdapter((0.5, 0.0)))
    assert adapter.pruned_shares() == {
        "layer.lora_A[en]": 0.5,
        "layer.lora_A[ar]": 0.0,
        "layer.lora_B[en]": 0.5,
        "layer.lora_B[ar]": 0.0,
    }


def test_probing_leaves_every_bit_and_mixes_kinds_of_ratios():
    tensors, adapter = masked()
    adapter.commit(PerAdapter((0.2, 0.6)))
    before = [t.detach().clone() for t in tensors.values()]
    seen = []
    with adapter.probing([0.5, PerAdapter((1.0, 0.0)), PerAdapter((0.5, 0.5))]) as apply:
        for i in range(3):
            apply(i)
            seen.append(tensors[A].detach().clone())
    assert torch.equal(seen[0], seen[2])
    assert not seen[1][:2].any()
    assert seen[1][2:].all()
    for was, tensor in zip(before, tensors.values(), strict=True):
        assert torch.equal(was, tensor.detach())


def test_its_state_comes_back():
    _, adapter = masked()
    adapter.commit(PerAdapter((0.2, 0.6)))
    _, other = masked()
    other.load_state_dict(adapter.state_dict())
    assert other.p == PerAdapter((0.2, 0.6))
    assert isinstance(other.p, PerAdapter)


@pytest.mark.parametrize("pruning", [Pruning(), Pruning(PARTS, unit="tensor")])
def test_it_takes_parts_that_compete_within_themselves(pruning):
    tensors, _ = masked()
    with pytest.raises(GraspError, match="give parts, unit='adapter', and as many ratios"):
        MaskedAdapter(tensors, pruning).commit(PerAdapter((0.1, 0.2)))


def test_it_takes_as_many_ratios_as_parts():
    _, adapter = masked()
    with pytest.raises(
        GraspError, match=r"3 ratios, one for each adapter, and the adapter has 2 parts \(en, ar\)"
    ):
        adapter.commit(PerAdapter((0.1, 0.2, 0.3)))


def test_ties_are_measured_against_each_adapters_own_ratio(caplog):
    tensors, _ = masked()
    with torch.no_grad():
        tensors[A][:2] = 1.0
    MaskedAdapter(tensors, Pruning(PARTS)).commit(PerAdapter((0.3, 0.9)))
    assert "tied scores prune more than p = 0.300, 0.900 in layer.lora_A[en]" in caplog.text
    assert "[ar]" not in caplog.text


@pytest.mark.parametrize("wrong", [(1.0, 1.0), (0.5, 1.2), (-0.1, 0.5), ()])
def test_ratios_that_leave_nothing_or_are_none_are_refused(wrong):
    for refuse in (per_adapter, lambda p: FixedMaskCallback(p)):
        with pytest.raises(GraspError, match="prune"):
            refuse(wrong)
    with pytest.raises(ValidationError, match="prune"):
        TypeAdapter(PruneRatio).validate_python(list(wrong))


def test_ratios_as_text_files_and_names():
    pair = PerAdapter((0.0, 1.0))
    assert (f"{pair:.2f}", str(pair), shown_ratio(pair)) == ("0.00, 1.00", "0.0, 1.0", "0.00+1.00")
    assert as_ratio(str(pair)) == pair == as_ratio([0, 1])
    assert as_ratio("0.25") == 0.25
    read = TypeAdapter(PruneRatio).validate_json(json.dumps(pair))
    assert (read, type(read)) == (pair, PerAdapter)
    assert TypeAdapter(PruneRatio).validate_json("0.5") == 0.5
    assert json.dumps(PerAdapter((0.0, 0.0))) == "[0.0, 0.0]"
    assert [prunes(p) for p in (0.0, 0.1, pair, PerAdapter((0.0, 0.0)))] == [False, True, True, False]
    assert spread(0.3, 2) == (0.3, 0.3)
    assert [p for p, _ in in_order({pair: 1, 0.5: 2, PerAdapter((0.0, 0.5)): 3, 0.1: 4})] == [
        0.1,
        0.5,
        (0.0, 0.5),
        pair,
    ]


def test_the_order_of_adapters_is_the_merges_where_sites_lack_some():
    def of(*names):
        return tuple(SimpleNamespace(name=name, start=i, stop=i + 1) for i, name in enumerate(names))

    assert names_of_parts({"a": of("en", "ar"), "b": of("en", "fr", "ar"), "c": of("ar")}) == (
        "en",
        "fr",
        "ar",
    )
    assert names_of_parts({"a": of("en"), "b": of("es"), "c": of("en", "es")}) == ("en", "es")
    assert names_of_parts({"a": of("es"), "b": of("en"), "c": of("en", "es")}) == ("en", "es")
    with pytest.raises(GraspError, match="another order"):
        names_of_parts({"a": of("en", "ar"), "b": of("ar", "en")})


def merged(folder, kinds=(("en", ["q_proj", "v_proj"]), ("ar", ["q_proj"]))):
    """Two adapters' sum, of which one has a site for itself; the folder of each adapter by name, too."""
    made = {
        name: random_adapter(
            tiny_llama(), folder / name, seed=i, target_modules=modules, r=2 + i, lora_alpha=8
        )
        for i, (name, modules) in enumerate(kinds)
    }
    merge_adapters(made, folder / "merged")
    return folder / "merged"


def logits(adapter):
    with torch.no_grad():
        return PeftModel.from_pretrained(tiny_llama(), adapter)(tokens()).logits


@pytest.mark.parametrize(("p", "alone"), [(PerAdapter((0.0, 1.0)), "en"), (PerAdapter((1.0, 0.0)), "ar")])
def test_an_adapter_pruned_whole_is_gone_and_the_model_is_that_of_the_other(tmp_path, p, alone):
    start, out = merged(tmp_path), tmp_path / "out"
    model = PeftModel.from_pretrained(tiny_llama(), start, is_trainable=True)
    parts = read_parts(start)
    adapter = MaskedAdapter(adapter_parameters(model), Pruning(parts))
    importance = adapter.importances()
    adapter.commit(p)
    save_adapter(model, out)
    zeroed = logits(out)
    say_what_mask_pruned(adapter, importance, adapter.pruned_norms(), out, parts)
    torch.testing.assert_close(logits(out), zeroed)
    torch.testing.assert_close(logits(out), logits(tmp_path / alone))
    (made,), (own,) = read_adapters({"a": out}), read_adapters({"a": tmp_path / alone})
    assert {site: f.rank for site, f in made.sites.items()} == {site: f.rank for site, f in own.sites.items()}
    masks = load_file(out / "mask.safetensors")
    weights = {site: (f.A.shape, f.B.shape) for site, f in made.sites.items()}
    for name, mask in masks.items():
        site, factor = site_of(name)
        assert mask.shape == weights[site][factor == "B"]
        assert mask.all()
    assert len(masks) == 2 * len(weights)
    assert Pruned.read(out).p == p


def test_nothing_is_written_where_nothing_is_left(tmp_path):
    start = merged(tmp_path)
    before = (start / "adapter_model.safetensors").read_bytes()
    with pytest.raises(GraspError, match="nothing would be left"):
        drop_parts(start, read_parts(start), {"en", "ar"})
    assert (start / "adapter_model.safetensors").read_bytes() == before
