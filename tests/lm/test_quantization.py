"""A quantized backbone: what of it is, what stays as it was, and that it is trained on like any other."""

import sys

import pytest
import torch
from tests.helpers.models import TINY_MODELS, random_adapter, tiny_llama, tokens
from tests.helpers.run import write_setting
from tests.helpers.tokenizer import tiny_tokenizer

from grasp_lora.cli.main import main
from grasp_lora.control.input_importance import InputImportance
from grasp_lora.control.units import adapter_parameters
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora, load_adapter, merge_into_base, new_adapter
from grasp_lora.lm.backbone import load_backbone
from grasp_lora.lm.deployment import measure_deployment
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.lm.quantization import quantization_of
from grasp_lora.tasks.example import Example

bitsandbytes = pytest.importorskip("bitsandbytes")
LAYERS = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}
EXAMPLES = [Example(str(i), f"say {word}\n", word) for i, word in enumerate(["ab", "fox jumps", "c"])]


@pytest.fixture
def folder(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("quantization", LAYERS)
def test_the_linear_layers_are_and_nothing_else(tmp_path, quantization, name):
    build, targets = TINY_MODELS[name]
    build().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), dtype="bfloat16", device="cpu", quantization=quantization)
    layers = [one for one in backbone.model.modules() if isinstance(one, LAYERS[quantization])]
    assert len(layers) == {"gpt2": 8}.get(name, 14)
    if quantization == "nf4":
        assert {one.compute_dtype for one in layers} == {torch.bfloat16}
    quantized = {id(one.weight) for one in layers}
    others = {p.dtype for p in backbone.model.parameters() if id(p) not in quantized}
    assert others == {torch.bfloat16}  # embeddings, norms and head are not made larger
    adapted = new_adapter(backbone.model, Lora(r=2, target_modules=tuple(targets)))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    adapted(input_ids=tokens(), labels=tokens()).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_weights_are_those_of_the_file_rounded(folder):
    full = tiny_llama().model.layers[1].mlp.up_proj.weight.detach()
    layer = load_backbone(str(folder), device="cpu", quantization="nf4").model.model.layers[1].mlp.up_proj
    found = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert 0.01 < (found - full).norm() / full.norm() < 0.25
    assert layer.weight.data.dtype == torch.uint8
    assert layer.weight.data.numel() * 2 == full.numel()


@pytest.mark.parametrize("quantization", LAYERS)
def test_it_computes_in_eval_mode_as_in_training_and_has_gradients_after(folder, quantization):
    """bitsandbytes packs 4-bit weights in eval mode where a CPU knows bfloat16; those have no gradient."""
    model = new_adapter(
        load_backbone(str(folder), device="cpu", quantization=quantization).model, Lora(dropout=0)
    )
    ids = tokens()

    def gradients():
        model.train()
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    before = gradients()
    with torch.no_grad():
        evaluated = model.eval()(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(evaluated, before[0], rtol=1e-4, atol=0)
    assert all(torch.equal(one, other) for one, other in zip(before, gradients(), strict=True))


def test_importance_sees_about_what_it_sees_in_the_full_model(folder):
    found = []
    for quantization in (None, "nf4"):
        backbone = load_backbone(str(folder), device="cpu", quantization=quantization)
        model = new_adapter(backbone.model, Lora(r=2))
        loss = TargetLoss(EXAMPLES, backbone.tokenizer, model)
        found.append(InputImportance(model, adapter_parameters(model), loss).input_norms())
    assert found[0].keys() == found[1].keys()
    for name, norms in found[0].items():
        assert (norms - found[1][name]).norm() < 0.15 * norms.norm(), name


def test_an_adapter_is_not_merged_into_it(folder, tmp_path):
    adapter = random_adapter(tiny_llama(), tmp_path / "a", seed=1, target_modules=["q_proj", "v_proj"], r=2)

    def load():
        return load_backbone(str(folder), device="cpu", quantization="nf4")

    backbone = load()
    assert quantization_of(backbone.model) == "nf4"
    adapted = load_adapter(backbone.model, adapter, trainable=False)
    with pytest.raises(GraspError, match="merged into full weights, and these are in nf4"):
        merge_into_base(adapted, backbone.tokenizer, tmp_path / "out", torch.float32)
    assert not (tmp_path / "out").exists()
    measured = measure_deployment(load, adapter, EXAMPLES[:1], Limits(40, 2), repeats=1)
    assert (measured.merged, measured.dtype) == (None, "float32, nf4")
    assert measured.unmerged.tokens_per_second > 0


def test_without_the_library_one_message_before_anything_is_made(tmp_path, monkeypatch, capsys):
    setting = write_setting(tmp_path)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert main(["run", str(setting / "run.yaml"), f"runs={tmp_path}/runs", "quantization=int8"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.splitlines()[-1].endswith(
        "quantization: int8 needs bitsandbytes; install the extra 'quant': pip install \"grasp-lora[quant]\""
    )
    assert not list((tmp_path / "runs").rglob("done.json"))
