"""A new adapter is what PEFT makes of the same words, and stays so through file, merge and mask."""

import math

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from tests.helpers.adapter_checks import assert_equals_active_together
from tests.helpers.models import tiny_gpt2, tiny_llama
from transformers import set_seed

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.units import Pruning, adapter_parameters
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora, load_adapter, new_adapter, save_adapter, without_card
from grasp_lora.merging import merge_adapters, read_parts
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work

pytestmark = pytest.mark.filterwarnings("ignore:::peft", "ignore:::transformers")

PATTERNS = {
    "rank_pattern": {"layers.1.self_attn.q_proj": 6, "v_proj": 2},
    "alpha_pattern": {r".*\.0\..*v_proj": 5.0},
}


def random_one(folder, seed, **settings):
    """An adapter of ours whose B does something."""
    set_seed(seed)
    model = new_adapter(tiny_llama(), Lora(r=4, alpha=8.0, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    save_adapter(model, folder)
    return folder


def test_a_stages_adapter_is_saved_without_a_card_and_saving_that_fails_leaves_nothing(tmp_path):
    folder = random_one(tmp_path / "one", 0)
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    model = new_adapter(tiny_llama(), Lora(r=4))
    with pytest.raises(OSError, match="full"), without_card(model), without_card(model):
        raise OSError("full")
    model.save_pretrained(tmp_path / "other")
    assert (tmp_path / "other/README.md").exists()


def layers(model):
    return {name: one for name, one in model.named_modules() if hasattr(one, "lora_A") and one.scaling}


def test_ranks_and_scalings_by_hand():
    found = layers(new_adapter(tiny_llama(), Lora(r=4, alpha=8.0, use_rslora=True, **PATTERNS)))
    shapes = {
        name.removeprefix("base_model.model.model.layers."): (one.r["default"], one.scaling["default"])
        for name, one in found.items()
    }
    assert shapes == {
        "0.self_attn.q_proj": (4, 8 / 2),
        "0.self_attn.v_proj": (2, 5 / math.sqrt(2)),
        "1.self_attn.q_proj": (6, 8 / math.sqrt(6)),
        "1.self_attn.v_proj": (2, 8 / math.sqrt(2)),
    }


@pytest.mark.parametrize("rslora", [False, True])
def test_a_merge_of_such_adapters_is_their_sum_and_knows_its_parts(tmp_path, rslora):
    adapters = {
        "en": random_one(tmp_path / "en", 1, use_rslora=rslora, **PATTERNS),
        "ar": random_one(tmp_path / "ar", 2, use_rslora=True, rank_pattern={"q_proj": 3}),
    }
    merge_adapters(adapters, tmp_path / "sum")
    assert_equals_active_together(tiny_llama, adapters, tmp_path / "sum")
    parts = read_parts(tmp_path / "sum")
    ends = {site[13:]: [part.stop for part in of_site] for site, of_site in parts.items()}
    assert ends == {
        "0.self_attn.q_proj": [4, 7], "0.self_attn.v_proj": [2, 6],
        "1.self_attn.q_proj": [6, 9], "1.self_attn.v_proj": [2, 6],
    }  # fmt: skip
    merged = load_adapter(tiny_llama(), tmp_path / "sum", trainable=True)
    masked = MaskedAdapter(adapter_parameters(merged), Pruning(parts))
    masked.commit(0.5)
    shares = masked.pruned_shares()
    assert len(shares) == 2 * 2 * 4  # A and B of two adapters at four sites
    assert all(abs(share - 0.5) < 1e-6 for share in shares.values())


def test_of_two_patterns_that_fit_one_module_training_and_loading_take_the_same(tmp_path):
    both = {"v_proj": 2, "layers.1.self_attn.v_proj": 6}  # the first by the alphabet is the last here
    lora = {"rank_pattern": both, "alpha_pattern": both}
    random_one(tmp_path / "a", 1, **lora)
    again = PeftModel.from_pretrained(tiny_llama(), str(tmp_path / "a"))
    for model in (new_adapter(tiny_llama(), Lora(**lora)), again):
        found = {name[30:]: one for name, one in layers(model).items() if "v_proj" in name}
        expected = {"0.self_attn.v_proj": 2, "1.self_attn.v_proj": 6}
        assert {name: one.r["default"] for name, one in found.items()} == expected
        assert {name: one.lora_alpha["default"] for name, one in found.items()} == expected
        assert all(one.scaling["default"] == 1.0 for one in found.values())


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal"])
def test_how_the_factors_begin(init):
    set_seed(0)
    base = {name: value.clone() for name, value in tiny_llama().named_parameters()}
    model = new_adapter(tiny_llama(), Lora(r=8, init_lora_weights=init))
    for layer in layers(model).values():
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert A.dtype == B.dtype == torch.float32
        assert A.requires_grad
        assert B.requires_grad
        assert (B == 0).all() == (init in (True, "gaussian"))
        assert torch.allclose(B @ A, torch.zeros(()), atol=1e-6) == (init is not False)
        if init == "gaussian":
            assert A.std().item() == pytest.approx(1 / 8, rel=0.3)
    left = {
        name.replace(".base_layer", ""): value for name, value in model.base_model.model.named_parameters()
    }
    assert all(torch.equal(value, left[name]) for name, value in base.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"init_lora_weights": init}, f"{init} changes the base model's weights")
          for init in ("pissa", "pissa_niter_16", "olora", "corda", "loftq")),
        ({"init_lora_weights": "eva"}, "needs passes over data"),
        ({"init_lora_weights": "mica"}, "freezes B"),
        ({"init_lora_weights": "gauss"}, "'gaussian' or 'orthogonal'"),
        *(({"bias": bias}, "trains biases of the base model") for bias in ("all", "lora_only")),
        ({"rank_pattern": {"(": 2}}, "no regular expression"),
        ({"rank_pattern": {"q_proj": 0}}, "greater than or equal to 1"),
        ({"alpha_pattern": {"q_proj": 0.0}}, "greater than 0"),
    ],
)  # fmt: skip
def test_what_a_merge_cannot_carry_is_refused_with_the_reason(settings, message):
    with pytest.raises(ValidationError, match=message):
        Lora(**settings)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (
            tiny_llama,
            {"target_modules": ("query",)},
            r"on \['query'\] .*The model has down_proj, .*, v_",
        ),
        (tiny_gpt2, {}, r"The model has c_attn, c_fc, c_proj"),
        (tiny_llama, {"r": 3, "init_lora_weights": "orthogonal"}, "rank to be even"),
        (
            tiny_llama,
            {"rank_pattern": {"k_proj": 4}},
            r"lora.rank_pattern: 'k_proj' fits no module .* of 4 ",
        ),
        (tiny_llama, {"alpha_pattern": {"layers": 4}}, r"lora.alpha_pattern: 'layers' fits no module"),
    ],
)
def test_what_does_not_fit_the_model_says_what_would(build, settings, message):
    with pytest.raises(GraspError, match=message):
        new_adapter(build(), Lora(**settings))


def test_only_what_is_set_is_in_a_stages_key(tmp_path):
    def inputs(**settings):
        return RunDirectory(tmp_path, Resources()).inputs(
            Stage("a", Work(print), {"start": Lora(**settings)})
        )

    known = {"r", "alpha", "dropout", "target_modules"}
    assert {key.removeprefix("start.") for key in inputs() if "order" not in key} == known
    assert inputs(init_lora_weights=1) == inputs(bias="none") == inputs(rank_pattern={}) == inputs()
    changes = [
        {"use_rslora": True}, {"init_lora_weights": False}, {"init_lora_weights": "gaussian"},
        {"rank_pattern": {"q_proj": 2}}, {"rank_pattern": {"q_proj": 3}}, {"alpha_pattern": {"q_proj": 2}},
    ]  # fmt: skip
    found = [inputs(), *(inputs(**one) for one in changes)]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])
