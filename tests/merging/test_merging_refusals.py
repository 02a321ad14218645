"""Adapters that cannot be merged by their factors are refused, by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.adapter_checks import (
    QV,
    assert_equals_active_together,
    config_of,
    edit_config,
    usual_pair,
)
from tests.helpers.models import random_adapter, tiny_llama

from grasp_lora.errors import GraspError
from grasp_lora.merging import combine_with_peft, merge_adapters

pytestmark = pytest.mark.filterwarnings("ignore:::peft", "ignore:::transformers")


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    return usual_pair(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [1, 2]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("alora_invocation_tokens", [5, 6]),
        ("use_qalora", True),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {"beta": 1e-4}),
        ("monteclora_config", {"num_samples": 2}),
        ("velora_config", {"num_groups": 4}),
        ("use_bdlora", {"nblocks": 2}),
        ("ensure_weight_tying", True),
        ("megatron_config", {"tensor_model_parallel_size": 1}),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("a_switch_of_a_later_version", True),
    ],
)
@pytest.mark.hostile("DoRA and other types of PEFT", "refused, the setting named")
def test_anything_but_plain_lora_is_refused_by_name(
    pair: dict[str, Path], tmp_path: Path, setting: str, value: object
) -> None:
    edit_config(pair["target"], **{setting: value})
    with pytest.raises(GraspError, match=rf"'target'.*{setting}"):
        merge_adapters(pair, tmp_path / "merged")
    with pytest.raises(GraspError, match=rf"'target'.*{setting}"):
        combine_with_peft(pair, tmp_path / "merged", "linear")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]  # nothing is left behind


@pytest.mark.parametrize(
    "settings", [{"init_lora_weights": "orthogonal", "r": 2}, {"init_lora_weights": "gaussian"}]
)
def test_initialisations_that_leave_the_base_model_alone_are_plain(
    pair: dict[str, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    other = random_adapter(tiny_llama(), tmp_path / "other", seed=4, target_modules=QV, **settings)
    adapters = {"source": pair["source"], "other": other}
    merge_adapters(adapters, tmp_path / "merged")
    assert_equals_active_together(tiny_llama, adapters, tmp_path / "merged")


@pytest.mark.parametrize("key", ["base_model_name_or_path", "revision", "task_type"])
@pytest.mark.hostile("an adapter of another base model", "refused before any training, both models named")
def test_different_base_models_are_refused(pair: dict[str, Path], tmp_path: Path, key: str) -> None:
    first, second = ("CAUSAL_LM", "SEQ_2_SEQ_LM") if key == "task_type" else ("one", "two")
    edit_config(pair["source"], **{key: first})
    edit_config(pair["target"], **{key: second})
    with pytest.raises(
        GraspError, match=f"'source' and 'target' have different {key}: '{first}' and '{second}'"
    ):
        merge_adapters(pair, tmp_path / "merged")

    if key == "revision":
        edit_config(pair["target"], revision="main")  # what PEFT writes where nobody gave one
        merge_adapters(pair, tmp_path / "main")
    edit_config(pair["target"], **{key: None})
    merge_adapters(pair, tmp_path / "merged")
    assert config_of(tmp_path / "merged")[key] == first


def test_one_base_folder_under_two_names_is_one_base_model(pair: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    edit_config(pair["source"], base_model_name_or_path=str(tmp_path / "base"))
    edit_config(pair["target"], base_model_name_or_path=str(tmp_path / "x" / ".." / "base") + "/")
    (tmp_path / "x").mkdir()
    merge_adapters(pair, tmp_path / "merged")
    assert config_of(tmp_path / "merged")["base_model_name_or_path"] == str(tmp_path / "base")


def test_shapes_that_disagree_are_refused(pair: dict[str, Path], tmp_path: Path) -> None:
    path = pair["target"] / "adapter_model.safetensors"
    key = "base_model.model.model.layers.1.self_attn.v_proj.lora_{}.weight"
    tensors = load_file(path)

    save_file(tensors | {key.format("A"): torch.zeros(3, 20)}, path)
    with pytest.raises(
        GraspError, match=r"'source' and 'target' disagree at model.layers.1.self_attn.v_proj.*20"
    ):
        merge_adapters(pair, tmp_path / "merged")

    save_file(tensors | {key.format("B"): torch.zeros(8, 4)}, path)
    with pytest.raises(GraspError, match=r"'target': the config says rank 3 at model.layers.1.*\(8, 4\)"):
        merge_adapters(pair, tmp_path / "merged")

    save_file({name: tensor for name, tensor in tensors.items() if name != key.format("B")}, path)
    with pytest.raises(
        GraspError, match=r"'target': site model.layers.1.* needs one matrix A and one matrix B"
    ):
        merge_adapters(pair, tmp_path / "merged")

    save_file(tensors | {key.format("magnitude_vector"): torch.zeros(8)}, path)
    with pytest.raises(GraspError, match=r"'target'.*lora_magnitude_vector"):
        merge_adapters(pair, tmp_path / "merged")

    wrapped = (
        "base_model.model.model.layers.1.attn.base_layer.out_proj.lora_A.weight"  # a module inside a module
    )
    save_file(tensors | {wrapped: torch.zeros(3, 16)}, path)
    with pytest.raises(GraspError, match=r"'target'.*base_layer.out_proj.* which plain LoRA does not have"):
        merge_adapters(pair, tmp_path / "merged")

    save_file({"base_model.model.lm_head.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(GraspError, match=r"'target'.*no LoRA factors"):
        merge_adapters(pair, tmp_path / "merged")


@pytest.mark.hostile("a pickle where safetensors belong", "refused, never opened")
def test_files_that_are_missing_or_unreadable(pair: dict[str, Path], tmp_path: Path) -> None:
    def complaint(match: str) -> None:
        with pytest.raises(GraspError, match=match):
            merge_adapters(pair, tmp_path / "merged")

    weights, config = (pair["target"] / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    weights.rename(pair["target"] / "adapter_model.bin")
    complaint(r"'target'.*pickled.*save_pretrained")
    (pair["target"] / "adapter_model.bin").unlink()
    complaint(r"'target'.*adapter_model.safetensors is missing")
    weights.write_bytes(b"not a safetensors file")
    complaint(r"'target'.*cannot be read")
    edit_config(pair["target"], lora_alpha=0)
    complaint("'target'")
    config.write_text("{")
    complaint(r"'target'.*adapter_config.json cannot be read as JSON")
    config.write_text("[]")
    complaint(r"'target'.*it is no object")
    config.unlink()
    complaint(r"'target'.*adapter_config.json is missing")
    pair["target"] = tmp_path / "nowhere"
    complaint(r"'target'.*nowhere is no folder")


@pytest.mark.parametrize("alpha", [0, -2, None, "8"])
def test_scaling_must_be_positive(pair: dict[str, Path], tmp_path: Path, alpha: object) -> None:
    edit_config(pair["target"], lora_alpha=alpha)
    with pytest.raises(GraspError, match=r"'target'.*lora_alpha must be a positive number"):
        merge_adapters(pair, tmp_path / "merged")


def test_no_adapter_no_method_no_room(pair: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(GraspError, match=r"^no adapter to merge; name at least one adapter folder$"):
        merge_adapters({}, tmp_path / "merged")
    with pytest.raises(GraspError, match=r"unknown merge method 'ties'.*sum, linear.*combine_with_peft"):
        merge_adapters(pair, tmp_path / "merged", method="ties")
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "notes.txt").write_text("mine")
    with pytest.raises(GraspError, match="already exists"):
        merge_adapters(pair, tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["notes.txt"]
