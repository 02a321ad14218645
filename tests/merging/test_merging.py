"""Merged adapters against PEFT itself: weight changes and logits, never factors alone."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.helpers.adapter_checks import (
    QV,
    Factory,
    assert_equals_active_together,
    changes_of,
    config_of,
    edit_config,
    load,
    sites_of,
    tensors_of,
    usual_pair,
)
from tests.helpers.models import TINY_MODELS, random_adapter, tiny_gemma3, tiny_llama, tiny_qwen3
from transformers import PreTrainedModel

from grasp_lora.errors import GraspError
from grasp_lora.merging import Part, merge_adapters, read_parts

pytestmark = pytest.mark.filterwarnings("ignore:::peft", "ignore:::transformers")


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    return usual_pair(tmp_path)


@pytest.mark.parametrize("architecture", TINY_MODELS)
def test_sum_equals_adapters_active_together(architecture: str, tmp_path: Path) -> None:
    build, modules = TINY_MODELS[architecture]
    adapters = {
        name: random_adapter(
            build(), tmp_path / name, seed=rank, target_modules=modules, r=rank, lora_alpha=alpha
        )
        for name, rank, alpha in (("source", 4, 8), ("target", 2, 7))
    }
    merge_adapters(adapters, tmp_path / "merged")
    assert_equals_active_together(build, adapters, tmp_path / "merged")


def in_order(patterns: dict[str, Any]) -> dict[str, Any]:
    """PEFT saves patterns sorted: of two that match a module, the first in the file wins at loading."""
    return dict(sorted(patterns.items()))


@st.composite
def lora_settings(draw: st.DrawFn) -> dict[str, Any]:
    """A LoRA config over some projections of a two-layer Llama, with all that changes rank and scaling."""
    modules = draw(st.sets(st.sampled_from(["q_proj", "v_proj", "down_proj"]), min_size=1).map(sorted))
    patterns = st.sampled_from(
        [modules[0], r"layers\.1\..*", rf"model.layers.0.self_attn.{modules[-1]}", ".*proj"]
    )
    alphas = st.integers(1, 16) | st.floats(0.1, 4)
    return {
        "target_modules": modules,
        "layers_to_transform": draw(st.none() | st.sampled_from([[0], [1], [0, 1]])),
        "r": draw(st.integers(1, 5)),
        "lora_alpha": draw(alphas),
        "use_rslora": draw(st.booleans()),
        "rank_pattern": draw(st.dictionaries(patterns, st.integers(1, 5), max_size=2).map(in_order)),
        "alpha_pattern": draw(st.dictionaries(patterns, alphas, max_size=2).map(in_order)),
    }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(lora_settings(), min_size=1, max_size=3))
def test_sum_for_any_ranks_scalings_patterns_and_modules(all_settings: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as folder:
        adapters = {
            f"a{seed}": random_adapter(tiny_llama(), Path(folder) / f"a{seed}", seed=seed, **chosen)
            for seed, chosen in enumerate(all_settings)
        }
        merge_adapters(adapters, Path(folder) / "merged")
        assert_equals_active_together(tiny_llama, adapters, Path(folder) / "merged")


def test_parts_name_the_rows_of_each_adapter(tmp_path: Path) -> None:
    adapters = {
        name: random_adapter(
            tiny_llama(), tmp_path / name, seed=rank, target_modules=modules, r=rank, lora_alpha=alpha
        )
        for name, modules, rank, alpha in (("a", QV, 3, 12), ("b", ["q_proj"], 2, 3), ("c", QV, 1, 2))
    }
    merge_adapters(adapters, tmp_path / "merged")

    parts = read_parts(tmp_path / "merged")
    assert parts is not None
    assert parts["model.layers.0.self_attn.q_proj"] == (Part("a", 0, 3), Part("b", 3, 5), Part("c", 5, 6))
    assert parts["model.layers.1.self_attn.v_proj"] == (Part("a", 0, 3), Part("c", 3, 4))
    separate = {name: changes_of(folder) for name, folder in adapters.items()}
    layers = dict(load(tiny_llama(), {"merged": tmp_path / "merged"}).base_model.model.named_modules())
    for site, of_site in parts.items():
        rows, columns = (layers[site].lora_A["merged"].weight, layers[site].lora_B["merged"].weight)
        for part in of_site:
            block = slice(part.start, part.stop)
            ours = layers[site].scaling["merged"] * columns[:, block] @ rows[block]
            torch.testing.assert_close(ours, separate[part.name][site], rtol=1e-5, atol=1e-6)
    assert sorted(parts) == sorted(sites_of(tmp_path / "merged"))


def test_scaling_stays_in_the_config(pair: dict[str, Path], tmp_path: Path) -> None:
    merge_adapters(pair, tmp_path / "merged")

    config = config_of(tmp_path / "merged")
    assert (config["r"], config["lora_alpha"]) == (6, 24)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    source, merged = (tensors_of(f) for f in (pair["source"], tmp_path / "merged"))
    for key, tensor in source.items():
        mine = merged[key][:3] if "lora_A" in key else merged[key][:, :3]
        assert torch.equal(mine, tensor)


def test_only_the_smaller_scaling_is_folded(tmp_path: Path) -> None:
    adapters = {
        name: random_adapter(
            tiny_llama(), tmp_path / name, seed=alpha, target_modules=QV, r=2, lora_alpha=alpha
        )
        for name, alpha in (("small", 3), ("large", 8))
    }
    merge_adapters(adapters, tmp_path / "merged")

    assert config_of(tmp_path / "merged")["lora_alpha"] == 4 * (2 + 2)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    small, large, merged = (tensors_of(folder)[key] for folder in (*adapters.values(), tmp_path / "merged"))
    assert torch.equal(merged[:, 2:], large)
    torch.testing.assert_close(merged[:, :2], small * (1.5 / 4))


def test_one_adapter_is_written_as_it_is(tmp_path: Path) -> None:
    alone = random_adapter(
        tiny_qwen3(), tmp_path / "alone", seed=5, target_modules=QV, r=4, lora_alpha=6, use_rslora=True
    )
    merge_adapters({"alone": alone}, tmp_path / "merged")
    assert_equals_active_together(tiny_qwen3, {"alone": alone}, tmp_path / "merged")
    theirs, ours = (tensors_of(folder) for folder in (alone, tmp_path / "merged"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_layer_1_is_not_layer_11(tmp_path: Path) -> None:
    def build() -> PreTrainedModel:
        return tiny_llama(layers=12)

    adapters = {
        "one": random_adapter(
            build(), tmp_path / "one", seed=1, target_modules=QV, layers_to_transform=[1], r=2, lora_alpha=3,
            rank_pattern={"layers.1.self_attn.q_proj": 4},
        ),
        "eleven": random_adapter(
            build(), tmp_path / "eleven", seed=2, target_modules=["q_proj"], layers_to_transform=[11], r=5,
            lora_alpha=4,
        ),
        "ten": random_adapter(
            build(), tmp_path / "ten", seed=3, target_modules=["q_proj"], layers_to_transform=[0, 1, 10], r=1
        ),
    }  # fmt: skip
    merge_adapters(adapters, tmp_path / "merged")

    assert sites_of(tmp_path / "merged") == {
        "model.layers.1.self_attn.v_proj", *(f"model.layers.{n}.self_attn.q_proj" for n in (0, 1, 10, 11))
    }  # fmt: skip
    assert_equals_active_together(build, adapters, tmp_path / "merged")


def test_many_sites_of_unequal_rank(tmp_path: Path) -> None:
    """PEFT shortens long lists of target modules; the result must still be these sites and ranks."""

    def build() -> PreTrainedModel:
        return tiny_llama(layers=12)

    ranks = {f"layers.{layer}.self_attn.q_proj": 1 + layer % 4 for layer in range(12)}
    adapters = {
        "a": random_adapter(build(), tmp_path / "a", seed=1, target_modules=QV, r=2, rank_pattern=ranks),
        "b": random_adapter(
            build(), tmp_path / "b", seed=2, target_modules=["v_proj", "o_proj"], r=3,
            layers_to_transform=[1, 3, 5, 7, 9, 11],
        ),
    }  # fmt: skip
    merge_adapters(adapters, tmp_path / "merged")
    assert_equals_active_together(build, adapters, tmp_path / "merged")


def test_target_modules_short_only_where_all_agree(pair: dict[str, Path], tmp_path: Path) -> None:
    merge_adapters(pair, tmp_path / "short")
    assert config_of(tmp_path / "short")["target_modules"] == QV

    other = random_adapter(
        tiny_llama(), tmp_path / "other", seed=9, target_modules=["q_proj"], r=3, lora_alpha=12
    )
    merge_adapters({"source": pair["source"], "other": other}, tmp_path / "long")
    assert config_of(tmp_path / "long")["target_modules"] == [
        f"model.layers.{layer}.self_attn.{module}" for layer in (0, 1) for module in QV
    ]


def test_target_modules_in_full_where_a_file_lacks_a_site(pair: dict[str, Path], tmp_path: Path) -> None:
    kept = {
        key: tensor for key, tensor in tensors_of(pair["target"]).items() if "layers.1.self_attn.v" not in key
    }
    save_file(kept, pair["target"] / "adapter_model.safetensors")
    merge_adapters(pair, tmp_path / "merged")
    assert "model.layers.1.self_attn.v_proj" in config_of(tmp_path / "merged")["target_modules"]
    assert_equals_active_together(tiny_llama, pair, tmp_path / "merged")


def test_target_modules_as_a_regular_expression(tmp_path: Path) -> None:
    adapters = {
        name: random_adapter(
            tiny_llama(), tmp_path / name, seed=r, target_modules=r".*layers\.1\.mlp\..*_proj", r=r
        )
        for name, r in (("a", 2), ("b", 3))
    }
    merge_adapters(adapters, tmp_path / "merged")
    assert config_of(tmp_path / "merged")["target_modules"] == r".*layers\.1\.mlp\..*_proj"
    assert_equals_active_together(tiny_llama, adapters, tmp_path / "merged")


@pytest.mark.parametrize("build", [tiny_llama, tiny_gemma3], ids=["untied", "tied"])
def test_embedding_lora(build: Factory, tmp_path: Path) -> None:
    adapters = {
        "a": random_adapter(build(), tmp_path / "a", seed=1, target_modules=["embed_tokens", "q_proj"], r=2),
        "b": random_adapter(
            build(), tmp_path / "b", seed=2, target_modules=["embed_tokens"], r=3, lora_alpha=5
        ),
    }
    merge_adapters(adapters, tmp_path / "merged")
    assert_equals_active_together(build, adapters, tmp_path / "merged")

    path = tmp_path / "b" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.model.embed_tokens.base_layer.weight"] += 1
    save_file(tensors, path)
    with pytest.raises(GraspError, match=r"'b'.*embed_tokens"):
        merge_adapters(adapters, tmp_path / "again")


def test_half_precision_adapters(pair: dict[str, Path], tmp_path: Path) -> None:
    path = pair["target"] / "adapter_model.safetensors"
    save_file({key: tensor.bfloat16() for key, tensor in load_file(path).items()}, path)
    edit_config(pair["target"], lora_alpha=5)
    merge_adapters(pair, tmp_path / "merged")
    assert {t.dtype for t in tensors_of(tmp_path / "merged").values()} == {torch.float32}
    assert_equals_active_together(tiny_llama, pair, tmp_path / "merged")


def test_config_of_the_base_model_is_kept(tmp_path: Path) -> None:
    build, modules = TINY_MODELS["gpt2"]
    adapters = {
        name: random_adapter(
            build(),
            tmp_path / name,
            seed=1,
            target_modules=modules,
            fan_in_fan_out=True,
            lora_dropout=dropout,
        )
        for name, dropout in (("a", 0.05), ("b", 0.2))
    }
    for name in adapters:
        edit_config(adapters[name], base_model_name_or_path="org/gpt")
    merge_adapters(adapters, tmp_path / "merged")
    config = config_of(tmp_path / "merged")
    expected = {
        "base_model_name_or_path": "org/gpt", "task_type": "CAUSAL_LM", "fan_in_fan_out": True,
        "lora_dropout": 0.05, "inference_mode": True, "init_lora_weights": True, "peft_type": "LORA",
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected


def test_merging_twice_writes_the_same_bytes(pair: dict[str, Path], tmp_path: Path) -> None:
    for out in ("one", "two"):
        merge_adapters(pair, tmp_path / out)
    for file in ("adapter_config.json", "adapter_model.safetensors", "parts.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_merged_adapter_can_be_merged_again(pair: dict[str, Path], tmp_path: Path) -> None:
    third = random_adapter(tiny_llama(), tmp_path / "third", seed=7, target_modules=["k_proj", "q_proj"], r=1)
    merge_adapters(pair, tmp_path / "first")
    merge_adapters({"first": tmp_path / "first", "third": third}, tmp_path / "second")
    assert_equals_active_together(tiny_llama, pair | {"third": third}, tmp_path / "second")


def test_a_sum_of_sums_still_names_every_adapter(pair: dict[str, Path], tmp_path: Path) -> None:
    merge_adapters(pair, tmp_path / "related")
    third = random_adapter(tiny_llama(), tmp_path / "third", seed=7, target_modules=QV, r=2, lora_alpha=8)
    merge_adapters({"related": tmp_path / "related", "third": third}, tmp_path / "merged")
    parts = read_parts(tmp_path / "merged")
    assert parts is not None
    for of_site in parts.values():
        assert of_site == (Part("related.source", 0, 3), Part("related.target", 3, 6), Part("third", 6, 8))
    path = tmp_path / "related" / "parts.json"
    path.write_text(path.read_text().replace('"stop": 6', '"stop": 5'))
    with pytest.raises(GraspError, match="'related' describes 5 rows where it has 6"):
        merge_adapters({"related": tmp_path / "related", "third": third}, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_linear_merge_of_embeddings(tmp_path: Path) -> None:
    modules = ["embed_tokens", "q_proj"]
    pair = {
        name: random_adapter(tiny_llama(), tmp_path / name, seed=seed, target_modules=modules, r=2)
        for seed, name in enumerate(("a", "b"))
    }
    merge_adapters(pair, tmp_path / "out", "linear")
    site = "base_model.model.model.embed_tokens.lora_embedding_"
    a, b = (sum(tensors_of(folder)[f"{site}{f}"] for folder in pair.values()) for f in "AB")
    merged = tensors_of(tmp_path / "out")
    torch.testing.assert_close((merged[f"{site}B"] @ merged[f"{site}A"]), b @ a)
    assert load(tiny_llama(), {"out": tmp_path / "out"}) is not None


def test_a_sum_of_three_merged_again_names_all(pair: dict[str, Path], tmp_path: Path) -> None:
    three = {**pair, "third": random_adapter(tiny_llama(), tmp_path / "c", seed=9, target_modules=QV, r=3)}
    merge_adapters(three, tmp_path / "three")
    merge_adapters({"sum": tmp_path / "three", "more": pair["source"]}, tmp_path / "again")
    (parts, *_) = read_parts(tmp_path / "again").values()
    assert [(part.name, part.start, part.stop) for part in parts] == [
        ("sum.source", 0, 3), ("sum.target", 3, 6), ("sum.third", 6, 9), ("more", 9, 12)
    ]  # fmt: skip


def test_the_file_says_that_it_is_pytorchs(pair: dict[str, Path], tmp_path: Path) -> None:
    merge_adapters(pair, tmp_path / "out")
    with safe_open(tmp_path / "out/adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_an_old_config_without_an_initialisation_is_plain_lora(pair: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(pair["source"])
    del config["init_lora_weights"]
    (pair["source"] / "adapter_config.json").write_text(json.dumps(config))
    merge_adapters(pair, tmp_path / "out")
    assert_equals_active_together(tiny_llama, pair, tmp_path / "out")
