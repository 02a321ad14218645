"""Loading a backbone: padding, types, tied embeddings, and what is refused."""

import pytest
import torch
from tests.helpers.models import TINY_MODELS, tiny_gemma3, tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer

from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora, load_adapter, new_adapter, save_adapter
from grasp_lora.lm.backbone import load_backbone


@pytest.fixture
def save(tmp_path):
    def save(model, tokenizer=None):
        model.save_pretrained(tmp_path / "model")
        (tokenizer or tiny_tokenizer()).save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


@pytest.mark.parametrize("name", TINY_MODELS)
def test_any_architecture_from_a_folder(save, name):
    model = TINY_MODELS[name][0]()
    backbone = load_backbone(save(model), device="cpu")
    assert backbone.tokenizer.padding_side == "left"
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert all(
        torch.equal(x, y) for x, y in zip(backbone.model.parameters(), model.parameters(), strict=True)
    )


@pytest.mark.hostile("a model without a padding token", "padded with end-of-text, which is masked")
def test_a_missing_padding_token_becomes_end_of_text(save):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    assert load_backbone(save(tiny_llama(), tokenizer)).tokenizer.pad_token_id == tokenizer.eos_token_id


def test_tied_embeddings_stay_tied(save):
    model = load_backbone(save(tiny_gemma3())).model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_the_type_is_the_one_asked_for_and_adapters_stay_in_float32(save):
    backbone = load_backbone(save(tiny_llama()), dtype="bfloat16", device="cpu")
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    adapter = new_adapter(backbone.model, Lora())
    assert {p.dtype for p in adapter.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.hostile("a pickle where safetensors belong", "refused, never opened")
def test_pickled_weights_are_not_read(save, tmp_path):
    path = save(tiny_llama())
    torch.save(tiny_llama().state_dict(), tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(GraspError, match="cannot load the backbone"):
        load_backbone(path)


def test_no_end_of_text_is_an_error(save):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(GraspError, match="no end-of-text"):
        load_backbone(save(tiny_llama(), tokenizer))


def test_an_adapter_comes_back_as_it_was_saved(save, tmp_path):
    path = save(tiny_llama())
    adapter = new_adapter(load_backbone(path).model, Lora(r=2))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    save_adapter(adapter, tmp_path / "adapter")
    loaded = load_adapter(load_backbone(path).model, tmp_path / "adapter", trainable=True)
    mine = {n: p for n, p in adapter.named_parameters() if p.requires_grad}
    theirs = {n: p for n, p in loaded.named_parameters() if p.requires_grad}
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)


@pytest.mark.hostile("weights that are NaN or infinite", "refused when read, never saved")
def test_weights_that_are_not_finite_are_not_saved(save, tmp_path):
    adapter = new_adapter(load_backbone(save(tiny_llama())).model, Lora())
    with torch.no_grad():
        next(p for p in adapter.parameters() if p.requires_grad)[0, 0] = float("nan")
    with pytest.raises(GraspError, match="not finite"):
        save_adapter(adapter, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
