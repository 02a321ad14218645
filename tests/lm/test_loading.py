"""How a backbone is loaded: its attention, and where its layers are."""

import pytest
import torch
from tests.helpers.models import tiny_llama, tokens
from tests.helpers.run import write_setting
from tests.helpers.tokenizer import tiny_tokenizer

from grasp_lora.cli.main import main
from grasp_lora.errors import GraspError
from grasp_lora.lm.backbone import load_backbone


@pytest.fixture
def folder(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def attended(model):
    """The operations on attention that a pass of the model makes."""
    with torch.no_grad(), torch.profiler.profile() as seen:
        model(tokens())
    return {event.key for event in seen.key_averages() if "scaled_dot_product" in event.key}


@pytest.mark.parametrize(("attention", "fused"), [(None, True), ("sdpa", True), ("eager", False)])
def test_attention_is_computed_as_it_says(folder, attention, fused):
    model = load_backbone(folder, device="cpu", attention=attention).model
    assert model.config._attn_implementation == (attention or "sdpa")
    assert bool(attended(model)) == fused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["attention=flash_attention_2"],
            "attention: flash_attention_2 needs a GPU and the package flash-attn",
        ),
        (["device_map=auto", "device=cpu"], "device_map says where each layer goes, and device is cpu"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(tmp_path, capsys, settings, said):
    setting = write_setting(tmp_path)
    assert main(["run", str(setting / "run.yaml"), f"runs={tmp_path}/runs", *settings]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list((tmp_path / "runs").rglob("done.json"))


def test_a_name_of_accelerates_places_all_of_it(folder):
    model = load_backbone(folder, device_map="auto").model
    assert {p.device for p in model.parameters()} == {load_backbone(folder).model.device}


def test_a_map_is_followed_and_a_part_on_the_disk_refused(folder):
    assert load_backbone(folder, device_map={"model": "cpu", "lm_head": "cpu"}).model.device.type == "cpu"
    layers = {"model.layers.0": "cpu", "model.layers.1": "disk"}
    others = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "meta")
    with pytest.raises(GraspError, match=r"leaves model.layers.0, model.layers.1 of the backbone on the CPU"):
        load_backbone(folder, device_map=layers | others)
