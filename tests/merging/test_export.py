"""Exported adapters change weights and logits as the originals do; PEFT itself is the judge."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.helpers.adapter_checks import (
    assert_equals_active_together,
    assert_same_changes,
    changes_of,
    config_of,
    edit_config,
    tensors_of,
    usual_pair,
)
from tests.helpers.models import random_adapter, tiny_gpt2, tiny_llama

from grasp_lora.errors import GraspError
from grasp_lora.merging import merge_adapters
from grasp_lora.merging.export import export_adapter
from grasp_lora.merging.inspect import inspect_adapter
from grasp_lora.merging.reading import read_adapters

QV = ["q_proj", "v_proj"]
PATTERNS = {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"layers.1.self_attn.v_proj": 3}}


@pytest.fixture
def uneven(tmp_path):
    """Ranks 5 and 3, four scalings, rsLoRA."""
    folder = tmp_path / "uneven"
    return random_adapter(
        tiny_llama(), folder, seed=4, target_modules=QV, r=3, lora_alpha=7, use_rslora=True, **PATTERNS
    )


@pytest.mark.parametrize(("loader", "rank"), [("vllm", 8), ("llama.cpp", 5)])
def test_for_loaders_of_one_rank_and_one_alpha(uneven, tmp_path, loader, rank):
    made = export_adapter(uneven, tmp_path / "out", loader=loader)
    assert_equals_active_together(tiny_llama, {"original": uneven}, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["r"], config["lora_alpha"]) == (rank, rank)
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert not config["use_rslora"]
    assert set(made.ranks.values()) == {rank}
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert name.startswith("base_model.model.model.layers.")
        assert tensor.shape[0 if name.endswith("lora_A.weight") else 1] == rank


SITES = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@given(SITES, st.booleans(), st.sampled_from(["vllm", "llama.cpp", "peft"]), st.integers(0, 99), st.data())
def test_any_ranks_and_scalings(tmp_path_factory, ranks, rslora, loader, seed, data):
    """Config and factors written by hand, delta W computed by hand."""
    folder = tmp_path_factory.mktemp("adapters")
    alphas = [data.draw(st.integers(1, 40)) for _ in ranks]
    generator, expected, tensors = torch.Generator().manual_seed(seed), {}, {}
    for number, (rank, alpha) in enumerate(zip(ranks, alphas, strict=True)):
        a, b = torch.randn(rank, 6, generator=generator), torch.randn(7, rank, generator=generator)
        name = f"model.layers.{number}.self_attn.q_proj"
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        expected[name] = alpha / (math.sqrt(rank) if rslora else rank) * b @ a
    sites = list(expected)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "r": ranks[0],
        "lora_alpha": alphas[0], "use_rslora": rslora,
        "rank_pattern": dict(zip(sites, ranks, strict=True)),
        "alpha_pattern": dict(zip(sites, alphas, strict=True)),
    }  # fmt: skip
    (folder / "in").mkdir()
    (folder / "in/adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "in/adapter_model.safetensors")
    how = data.draw(st.sampled_from([{}, {"energy": 1.0}, {"rank": 9}, {"dtype": "fp32"}]))
    export_adapter(folder / "in", folder / "out", loader=loader, **how)
    (made,) = read_adapters({"out": folder / "out"})
    for site, change in expected.items():
        ours = made.sites[site].scaling * made.sites[site].B @ made.sites[site].A
        torch.testing.assert_close(ours, change, rtol=1e-4, atol=1e-4)


def test_as_it_is(tmp_path):
    merge_adapters(usual_pair(tmp_path), tmp_path / "merged")
    (tmp_path / "merged/notes.txt").write_text("mine")
    assert export_adapter(tmp_path / "merged", tmp_path / "out").as_it_was
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert made == {
        name: (tmp_path / "merged" / name).read_bytes()
        for name in ("adapter_config.json", "adapter_model.safetensors", "parts.json")
    }


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_number_formats(tmp_path, dtype, kind):
    merge_adapters(usual_pair(tmp_path), tmp_path / "merged")
    made = export_adapter(tmp_path / "merged", tmp_path / "out", dtype=dtype)
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "out").values()} == {kind}
    assert 1e-5 < made.apart < 1e-2  # rounded, and not more
    assert (tmp_path / "out/parts.json").exists()  # its rows are what they were


def test_a_lower_rank_is_the_nearest_one(tmp_path):
    merge_adapters(usual_pair(tmp_path), tmp_path / "merged")
    made = export_adapter(tmp_path / "merged", tmp_path / "out", rank=2)
    expected = {}
    for site, change in changes_of(tmp_path / "merged").items():
        u, s, vh = torch.linalg.svd(change.double(), full_matrices=False)
        expected[site] = (u[:, :2] * s[:2] @ vh[:2]).float()
        assert made.lost[site].energy == pytest.approx(float(s[2:].square().sum() / s.square().sum()), 1e-4)
    assert_same_changes(changes_of(tmp_path / "out"), expected)
    assert not (tmp_path / "out/parts.json").exists()  # no row is one adapter's any more
    assert config_of(tmp_path / "out")["r"] == 2


def test_an_energy_takes_another_rank_at_each_module(tmp_path):
    merge_adapters(usual_pair(tmp_path), tmp_path / "merged")
    made = export_adapter(tmp_path / "merged", tmp_path / "out", energy=0.9)
    assert max(made.energies) <= 0.1
    for site, change in changes_of(tmp_path / "merged").items():
        squares = torch.linalg.svdvals(change.double()).square()
        kept = squares[: made.ranks[site] - 1].sum() / squares.sum()
        assert kept < 0.9  # one rank less would not do
    assert_equals_energy(tmp_path / "merged", tmp_path / "out", 0.1)


def assert_equals_energy(one, other, lost):
    theirs = changes_of(one)
    for site, change in changes_of(other).items():
        assert (change - theirs[site]).square().sum() <= lost * theirs[site].square().sum() * 1.0001


def large(folder):
    return random_adapter(tiny_llama(), folder, seed=0, target_modules=QV, r=513)


def test_what_vllm_cannot_take(tmp_path):
    with pytest.raises(
        GraspError, match="ranks up to 512, and this adapter's is 513: lower it with --rank 512"
    ):
        export_adapter(large(tmp_path / "large"), tmp_path / "out", loader="vllm")
    assert not (tmp_path / "out").exists()
    export_adapter(tmp_path / "large", tmp_path / "out", loader="vllm", rank=512)
    assert config_of(tmp_path / "out")["r"] == 16  # that is all that modules of this size hold


@pytest.mark.parametrize("loader", ["vllm", "llama.cpp"])
@pytest.mark.parametrize(
    ("setting", "reason"),
    [({"use_dora": True}, "use_dora"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")],
)
def test_what_is_not_plain_lora_is_refused(tmp_path, loader, setting, reason):
    folder = usual_pair(tmp_path)["source"]
    edit_config(folder, **setting)
    with pytest.raises(GraspError, match=reason):
        export_adapter(folder, tmp_path / "out", loader=loader)


@pytest.mark.parametrize("loader", ["vllm", "llama.cpp"])
def test_what_these_would_misread_is_refused(tmp_path, loader):
    random_adapter(tiny_gpt2(), tmp_path / "gpt2", seed=0, target_modules=["c_attn"], fan_in_fan_out=True)
    random_adapter(tiny_llama(), tmp_path / "embedding", seed=0, target_modules=["embed_tokens"])
    for name, reason in (("gpt2", "weights transposed"), ("embedding", "adapts an embedding")):
        with pytest.raises(GraspError, match=reason):
            export_adapter(tmp_path / name, tmp_path / "out", loader=loader)
    assert not (tmp_path / "out").exists()


def test_a_check_that_fails_removes_what_was_written(tmp_path):
    folder = usual_pair(tmp_path)["source"]
    tensors = {name: tensor * 1e-8 for name, tensor in tensors_of(folder).items()}  # nothing, in fp16
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GraspError, match=r"differs from the original's by 1\.0e\+00 of its norm"):
        export_adapter(folder, tmp_path / "out", dtype="fp16")

    def finish(made, done):
        raise GraspError(f"{done.apart < 1e-5} {sorted(path.name for path in made.iterdir())}")

    with pytest.raises(GraspError, match=r"True \['adapter_config.json', 'adapter_model.safetensors'\]"):
        export_adapter(folder, tmp_path / "out", dtype="fp32", finish=finish)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    folder = usual_pair(tmp_path)["source"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with pytest.raises(GraspError, match="already exists"):
        export_adapter(folder, tmp_path / "out")


@pytest.mark.parametrize("how", [{"rank": 64}, {"energy": 1.0}, {"rank": 6}])
def test_where_no_rank_falls_nothing_changes(tmp_path, how):
    merge_adapters(usual_pair(tmp_path), tmp_path / "merged")
    made = export_adapter(tmp_path / "merged", tmp_path / "out", **how)
    assert made.as_it_was
    assert not made.lost
    names = {"adapter_config.json", "adapter_model.safetensors", "parts.json"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        name: (tmp_path / "merged" / name).read_bytes() for name in names
    }


def test_a_module_whose_rank_does_not_fall_stays_as_it_is(uneven, tmp_path):
    made = export_adapter(uneven, tmp_path / "out", rank=3)
    assert {site.split(".")[-1] for site in made.lost} == {"q_proj"}  # of rank 5; v_proj's is 3
    before, after = tensors_of(uneven), tensors_of(tmp_path / "out")
    for name in before:
        assert ("v_proj" in name) == (after[name].shape == before[name].shape)
        assert "q_proj" in name or torch.equal(after[name], before[name])


def spoil(folder, value):
    tensors = tensors_of(folder)
    name = min(name for name in tensors if "v_proj.lora_B" in name)
    tensors[name][0, 0] = value
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("how", [{}, {"rank": 1}, {"energy": 0.9}, {"loader": "vllm"}])
def test_values_that_are_not_finite(tmp_path, value, how):
    folder = usual_pair(tmp_path)["source"]
    spoil(folder, value)
    with pytest.raises(
        GraspError, match=r"layers\.0\.self_attn\.v_proj\.lora_B\.weight holds values that are"
    ):
        export_adapter(folder, tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()
    with pytest.raises(GraspError, match="not finite"):
        inspect_adapter(folder)


def test_values_too_large_for_a_number_format(tmp_path):
    folder = usual_pair(tmp_path)["source"]
    spoil(folder, 1e6)
    with pytest.raises(GraspError, match=r"v_proj has values too large for fp16; use another --dtype"):
        export_adapter(folder, tmp_path / "out", dtype="fp16")


@pytest.mark.parametrize("setting", [{"r": 0}, {"lora_alpha": math.inf}])
def test_a_rank_of_nothing_and_a_scaling_without_end(tmp_path, setting):
    folder = usual_pair(tmp_path)["source"]
    edit_config(folder, **setting)
    if setting.get("r") == 0:
        empty = {
            name: tensor[:0] if "lora_A" in name else tensor[:, :0].contiguous()
            for name, tensor in tensors_of(folder).items()
        }
        save_file(empty, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GraspError, match=r"the rank at \S+_proj is 0|lora_alpha must be a positive number"):
        inspect_adapter(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_damaged_files_are_not_copied(tmp_path, name, content):
    folder = usual_pair(tmp_path)["source"]
    (folder / name).write_bytes(content)
    with pytest.raises(GraspError, match=f"{name} cannot be read"):
        export_adapter(folder, tmp_path / "out")
