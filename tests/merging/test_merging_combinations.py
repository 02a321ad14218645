"""The linear merge, and PEFT's combinations against PEFT on the loaded base model."""

import json
import math
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.adapter_checks import (
    QV,
    assert_equals_active_together,
    assert_same_changes,
    changes_of,
    deltas,
    edit_config,
    load,
    tensors_of,
    usual_pair,
)
from tests.helpers.models import TINY_MODELS, random_adapter, tiny_llama

from grasp_lora.errors import GraspError
from grasp_lora.merging import PEFT_METHODS, Part, combinations, combine_with_peft, merge_adapters, read_parts
from grasp_lora.merging.combinations import check_peft

pytestmark = pytest.mark.filterwarnings("ignore:::peft", "ignore:::transformers")


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    return usual_pair(tmp_path)


# --- ours


def test_linear_is_the_product_of_the_sums(pair: dict[str, Path], tmp_path: Path) -> None:
    merge_adapters(pair, tmp_path / "linear", method="linear")

    ours = changes_of(tmp_path / "linear")
    tensors = [tensors_of(folder) for folder in pair.values()]
    for site, change in ours.items():
        rows, columns = (
            sum(t[f"base_model.model.{site}.lora_{factor}.weight"].double() for t in tensors)
            for factor in "AB"
        )
        torch.testing.assert_close(change.double(), 4.0 * columns @ rows, rtol=1e-5, atol=1e-6)
    assert read_parts(tmp_path / "linear") == {site: (Part("merged", 0, 3),) for site in ours}

    # The cross terms B_a A_b are what Eq. 1 does not have.
    merge_adapters(pair, tmp_path / "sum")
    summed = changes_of(tmp_path / "sum")
    assert all((ours[site] - summed[site]).abs().max() > 0.1 for site in ours)

    merge_adapters({"source": pair["source"]}, tmp_path / "one", method="linear")
    one = changes_of(tmp_path / "one")
    assert_same_changes(one, changes_of(pair["source"]))


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"target_modules": QV, "r": 4, "lora_alpha": 16}, r"rank 3 .*'other' has 4"),
        ({"target_modules": QV, "r": 3, "lora_alpha": 6}, r"scaling 4.*'other' has 3 and 2"),
        (
            {"target_modules": ["q_proj"], "r": 3, "lora_alpha": 12},
            r"'other' has no factors at .*layers.0.*v_proj",
        ),
    ],
)
def test_linear_refuses_unequal_adapters(
    pair: dict[str, Path], tmp_path: Path, other: dict[str, Any], complaint: str
) -> None:
    folder = random_adapter(tiny_llama(), tmp_path / "other", seed=3, **other)
    with pytest.raises(GraspError, match=complaint):
        merge_adapters({"source": pair["source"], "other": folder}, tmp_path / "merged", method="linear")


# --- PEFT's

RANDOM_METHODS = ("dare_ties", "dare_linear", "dare_ties_svd", "dare_linear_svd")
EXACT_METHODS = tuple(method for method in PEFT_METHODS if method not in RANDOM_METHODS)
INSTALLED = tuple(map(int, version("peft").split(".")[:2]))
right = pytest.mark.skipif(INSTALLED < (0, 21), reason="older PEFT combines wrongly, and is refused")


@pytest.mark.parametrize(
    ("installed", "method", "weights", "said"),
    [
        ("0.20.1", "ties_svd", None, "ties_svd needs PEFT 0.21"),
        ("0.20.1", "ties", {"a": 1.0, "b": -0.5}, None),
        ("0.18.0", "linear", {"a": 1.0, "b": -0.5}, "linear needs PEFT 0.19 or newer for negative weights"),
        ("0.18.0", "linear", {"a": 1.0, "b": 0.5}, None),
        ("1.0.0", "svd", {"a": -1.0}, None),
    ],
)
def test_what_an_older_peft_combines_wrongly_is_refused(monkeypatch, installed, method, weights, said):
    monkeypatch.setattr(combinations, "version", lambda name: installed)
    with nullcontext() if said is None else pytest.raises(GraspError, match=said):
        check_peft(method, weights)


def density_of(method: str) -> float | None:
    return None if method in ("linear", "svd") else 0.6


@right
@pytest.mark.parametrize("method", EXACT_METHODS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_combination_equals_peft_on_the_loaded_model(architecture: str, method: str, tmp_path: Path) -> None:
    build, modules = TINY_MODELS[architecture]
    adapters = {
        name: random_adapter(
            build(), tmp_path / name, seed=seed, target_modules=targets, r=3, lora_alpha=seed
        )
        for seed, (name, targets) in enumerate(
            {"a": modules, "b": modules, "c": modules[:1]}.items(), start=2
        )
    }
    weights = {"a": 0.7, "b": -0.4, "c": 1.2}
    combine_with_peft(
        adapters, tmp_path / "out", method, weights=weights, density=density_of(method),
        majority_sign_method="frequency",
    )  # fmt: skip

    reference = load(build(), adapters)
    reference.add_weighted_adapter(
        list(adapters), list(weights.values()), "ref", combination_type=method, density=density_of(method),
        majority_sign_method="frequency",
    )  # fmt: skip
    assert_same_changes(changes_of(tmp_path / "out", build), deltas(reference, "ref"))
    parts = read_parts(tmp_path / "out")
    assert parts is not None
    assert set(parts.values()) == {(Part("merged", 0, 3),)}


@right
@pytest.mark.parametrize("method", ["svd", "ties_svd"])
def test_combination_of_embeddings(method: str, tmp_path: Path) -> None:
    modules = ["embed_tokens", "q_proj"]
    adapters = {
        name: random_adapter(tiny_llama(), tmp_path / name, seed=rank, target_modules=modules, r=rank)
        for name, rank in (("a", 2), ("b", 3))
    }
    combine_with_peft(adapters, tmp_path / "out", method, density=density_of(method))
    reference = load(tiny_llama(), adapters)
    reference.add_weighted_adapter(
        [*adapters], [1.0, 1.0], "ref", combination_type=method, density=density_of(method)
    )
    assert_same_changes(changes_of(tmp_path / "out"), deltas(reference, "ref"))


@right
def test_svd_of_full_rank_is_the_sum_whatever_the_adapters(tmp_path: Path) -> None:
    """rsLoRA, layers_to_transform: `add_weighted_adapter` itself would take the first adapter's for all."""
    adapters = {
        "a": random_adapter(
            tiny_llama(), tmp_path / "a", seed=1, target_modules=["q_proj"], layers_to_transform=[0], r=2,
            use_rslora=True, rank_pattern={"q_proj": 3},
        ),
        "b": random_adapter(
            tiny_llama(), tmp_path / "b", seed=2, target_modules=r".*\.(q|v)_proj", r=2, lora_alpha=7
        ),
    }  # fmt: skip
    combine_with_peft(adapters, tmp_path / "out", "svd", rank=8)
    assert_equals_active_together(tiny_llama, adapters, tmp_path / "out")


def test_linear_of_peft_is_ours_where_both_apply(pair: dict[str, Path], tmp_path: Path) -> None:
    for folder in pair.values():
        edit_config(folder, use_rslora=True)
    merge_adapters(pair, tmp_path / "ours", method="linear")
    combine_with_peft(pair, tmp_path / "peft", "linear")
    ours, theirs = (changes_of(tmp_path / name) for name in ("ours", "peft"))
    assert_same_changes(ours, theirs)


@right
@pytest.mark.parametrize("method", RANDOM_METHODS)
def test_dare_follows_its_seed_and_leaves_the_global_generator(
    pair: dict[str, Path], tmp_path: Path, method: str
) -> None:
    before = torch.get_rng_state()
    for out, seed in (("one", 1), ("same", 1), ("other", 2)):
        combine_with_peft(pair, tmp_path / out, method, density=0.5, seed=seed)
        torch.rand(1)  # what the caller draws in between must not matter
    one, same, other = (
        (tmp_path / out / "adapter_model.safetensors").read_bytes() for out in ("one", "same", "other")
    )
    assert one == same != other
    torch.set_rng_state(before)
    combine_with_peft(pair, tmp_path / "last", method, density=0.5)
    assert torch.equal(torch.get_rng_state(), before)


@right
def test_dare_linear_keeps_and_rescales(pair: dict[str, Path], tmp_path: Path) -> None:
    """The mean over seeds is the plain sum, as dropped entries are made up for by the rest."""
    site, runs = "model.layers.0.self_attn.q_proj", 30
    total = torch.zeros(16, 16)
    for seed in range(runs):
        combine_with_peft(pair, tmp_path / f"{seed}", "dare_linear_svd", density=0.5, seed=seed, rank=16)
        tensors = load_file(tmp_path / f"{seed}" / "adapter_model.safetensors")
        a, b = (tensors[f"base_model.model.{site}.lora_{factor}.weight"] for factor in "AB")
        total += b @ a
    merge_adapters(pair, tmp_path / "sum")
    expected = changes_of(tmp_path / "sum")[site]
    parts = [changes_of(folder)[site] for name, folder in pair.items()]
    # An entry w kept with probability 1/2 and doubled has variance w^2.
    deviation = torch.stack(parts).square().sum(0).sqrt() / math.sqrt(runs)
    assert ((total / runs - expected) / deviation).abs().max() < 5


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"method": "tie"}, "unknown PEFT combination 'tie'; use one of linear, svd, ties"),
        ({"method": "ties"}, "ties needs a density"),
        ({"method": "dare_linear", "density": 0.0}, "needs a density"),
        ({"method": "ties", "density": 1.5}, "needs a density"),
        ({"method": "svd", "density": 0.5}, "has no effect"),
        ({"method": "svd", "rank": 0}, "at least 1"),
        ({"method": "linear", "rank": 2}, "only for the svd methods"),
        ({"method": "linear", "weights": {"source": 1.0}}, "must name the adapters"),
        ({"method": "ties", "density": 0.5, "majority_sign_method": "most"}, "majority_sign_method"),
    ],
)
def test_combination_arguments_are_checked(
    pair: dict[str, Path], tmp_path: Path, arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(GraspError, match=complaint):
        combine_with_peft(pair, tmp_path / "out", **arguments)
    with pytest.raises(GraspError, match="at least two"):
        combine_with_peft({"source": pair["source"]}, tmp_path / "out", "svd")
    assert not (tmp_path / "out").exists()


@right
def test_the_ends_of_what_may_be_given(pair: dict[str, Path], tmp_path: Path) -> None:
    """A density of 1 prunes nothing, a rank of 1 is one."""
    combine_with_peft(pair, tmp_path / "ties", "ties", density=1.0)
    combine_with_peft(pair, tmp_path / "svd", "svd", rank=1)
    assert json.loads((tmp_path / "svd/adapter_config.json").read_text())["r"] == 1


def test_linear_of_unequal_ranks_is_sent_to_svd(pair: dict[str, Path], tmp_path: Path) -> None:
    other = random_adapter(tiny_llama(), tmp_path / "other", seed=7, target_modules=QV, r=2)
    with pytest.raises(GraspError, match=r"; use svd or the sum$"):
        combine_with_peft({"source": pair["source"], "other": other}, tmp_path / "out", "linear")


def test_combination_by_factors_needs_equal_ranks(pair: dict[str, Path], tmp_path: Path) -> None:
    other = random_adapter(tiny_llama(), tmp_path / "other", seed=3, target_modules=QV, r=2)
    with pytest.raises(GraspError, match=r"equal ranks.*'source': 3, 'other': 2.*ties_svd"):
        combine_with_peft({"source": pair["source"], "other": other}, tmp_path / "out", "ties", density=0.5)


@right
def test_a_rank_beyond_what_a_site_can_have_is_what_it_can_have(tmp_path: Path) -> None:
    pair = usual_pair(tmp_path)
    combine_with_peft(pair, tmp_path / "out", "svd", rank=16)
    shapes = {name.split(".")[-3]: tuple(w.shape) for name, w in tensors_of(tmp_path / "out").items()}
    b, a = (
        tensors_of(tmp_path / "out")[f"base_model.model.model.layers.0.self_attn.v_proj.lora_{f}.weight"]
        for f in "BA"
    )
    assert b.shape[1] == a.shape[0] <= min(b.shape[0], a.shape[1]), shapes
    assert_equals_active_together(tiny_llama, pair, tmp_path / "out")


def test_dare_draws_with_seed_0_unless_told(tmp_path: Path) -> None:
    pair = usual_pair(tmp_path)
    for name, seed in (("default", {}), ("zero", {"seed": 0}), ("one", {"seed": 1})):
        combine_with_peft(pair, tmp_path / name, "dare_linear", density=0.5, **seed)
    default, zero, one = (tensors_of(tmp_path / name) for name in ("default", "zero", "one"))
    assert all(torch.equal(default[key], zero[key]) for key in zero)
    assert not all(torch.equal(default[key], one[key]) for key in one)
