"""Which names are one base model, and which adapters other programs misread."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.models import random_adapter, tiny_llama

from grasp_lora.merging.reading import WEIGHTS_FILE, read_adapters, same_base_model
from grasp_lora.merging.writing import other_loaders


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("meta/Llama-8B", "meta/Llama-8B", True),
        ("meta/Llama-8B", "copy/Llama-8B", False),  # two hub names
        ("meta/Llama-8B", "/elsewhere/llama-8b", True),  # a folder of another machine: its last part
        ("/elsewhere/llama-8b", "meta/Llama-8B", True),
        ("meta/Llama-8B", "/elsewhere/llama-3b", False),
        ("/mine/llama-8b", "/theirs/Llama-8B", True),
        ("/mine/llama-8b", "/theirs/llama-3b", False),
    ],
)
def test_base_models_by_name(one, other, same):
    assert same_base_model(one, other) is same


def test_base_models_in_folders(tmp_path):
    for name in ("a/llama", "b/llama"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a/llama")
    a, b, link = (str(tmp_path / name) for name in ("a/llama", "b/llama", "link"))
    assert same_base_model(a, a)
    assert same_base_model(a, link)  # one folder under two names
    assert not same_base_model(a, b)  # both are here, and differ
    assert same_base_model(a, "meta/LLaMA")  # one is here, the other is a hub name
    assert not same_base_model(a, "meta/mistral")


@pytest.mark.parametrize(
    "dtype",
    [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz,
     torch.float8_e8m0fnu, torch.float16, torch.bfloat16],
)  # fmt: skip
def test_factors_in_fewer_bits_are_read_as_float32(tmp_path, dtype):
    folder = random_adapter(tiny_llama(), tmp_path / "a", seed=0, target_modules=["q_proj"], r=2)
    stored = {name: tensor.abs().to(dtype) for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
    save_file(stored, folder / WEIGHTS_FILE)
    (read,) = read_adapters({"a": folder})
    for site, factors in read.sites.items():
        for factor, name in ((factors.A, "A"), (factors.B, "B")):
            assert factor.dtype == torch.float32
            assert torch.equal(factor, stored[f"base_model.model.{site}.lora_{name}.weight"].float())


@pytest.mark.parametrize("pattern", ["rank_pattern", "alpha_pattern", None])
def test_what_other_loaders_get_wrong(tmp_path, pattern):
    folder = random_adapter(tiny_llama(), tmp_path / "a", seed=0, target_modules=["q_proj"], r=2)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | ({pattern: {"^x": 3}} if pattern else {})
    path.write_text(json.dumps(config))
    said = other_loaders(folder)
    if pattern is None:
        assert said == ""
    else:
        assert said.startswith(f"{folder} has modules of different ranks or scalings (rank_pattern, alpha_")
        assert "vLLM and llama.cpp ignore these patterns and would compute with wrong weights" in said
        assert said.endswith("`grasp export --for` writes it for them")
