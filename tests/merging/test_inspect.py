"""What is found in adapters' files, against what was put there."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.adapter_checks import changes_of, usual_pair
from tests.helpers.models import TINY_MODELS, random_adapter, tiny_llama

from grasp_lora.errors import GraspError
from grasp_lora.merging import merge_adapters
from grasp_lora.merging.inspect import inspect_adapter, place_of

WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize("model", TINY_MODELS)
def test_norms_and_ranks_are_those_of_what_peft_computes(model, tmp_path):
    build, modules = TINY_MODELS[model]
    random_adapter(build(), tmp_path, seed=1, target_modules=modules, r=3, lora_alpha=5, use_rslora=True)
    expected = changes_of(tmp_path, build)
    found = {one.site: one for one in inspect_adapter(tmp_path).modules}
    assert found.keys() == expected.keys()
    for site, change in expected.items():
        assert found[site].norm == pytest.approx(float(change.norm()), rel=1e-5)
        values = torch.linalg.svdvals(change.double())[:3]
        shares = values / values.sum()
        assert found[site].effective_rank == pytest.approx(
            float((-shares * shares.log()).sum().exp()), rel=1e-4
        )
        assert found[site].scaling == pytest.approx(5 / 3**0.5)


def test_zeros_by_part(tmp_path):
    merge_adapters(usual_pair(tmp_path), tmp_path / "merged")
    tensors = load_file(tmp_path / "merged" / WEIGHTS)
    for name, tensor in tensors.items():
        if "lora_A" in name:
            tensor[:3, :4] = 0.0  # source: 12 of 48 entries of each A
        elif "layers.0" in name:
            tensor[:, 3:] = 0.0  # target: every B of layer 0, one half of all
    save_file(tensors, tmp_path / "merged" / WEIGHTS, metadata={"format": "pt"})
    found = inspect_adapter(tmp_path / "merged")
    shares = {p.name: (p.zeros_a / p.entries_a, p.zeros_b / p.entries_b) for p in found.parts}
    assert shares == {"source": (0.25, 0.0), "target": (0.0, 0.5)}
    assert [(one.layer, one.projection) for one in found.modules[:2]] == [
        (0, "self_attn.q_proj"),
        (0, "self_attn.v_proj"),
    ]
    assert {one.rank for one in found.modules} == {6}


def test_the_parts_of_the_merge_that_it_was_trained_from(tmp_path):
    pair = usual_pair(tmp_path)
    merge_adapters(pair, tmp_path / "merged")
    random_adapter(tiny_llama(), tmp_path / "final", seed=3, target_modules=["q_proj", "v_proj"], r=6)
    assert not inspect_adapter(tmp_path / "final").parts
    found = inspect_adapter(tmp_path / "final", tmp_path / "merged")
    assert [part.name for part in found.parts] == ["source", "target"]
    with pytest.raises(GraspError, match="was not trained from that merge"):
        inspect_adapter(pair["source"], tmp_path / "merged")
    with pytest.raises(GraspError, match=r"no parts\.json"):
        inspect_adapter(tmp_path / "final", pair["source"])


def test_places():
    assert place_of("model.layers.11.self_attn.q_proj") == (11, "self_attn.q_proj")
    assert place_of("transformer.h.0.mlp.c_proj") == (0, "mlp.c_proj")
    assert place_of("lm_head") == (None, "lm_head")
