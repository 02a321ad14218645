"""Stages against the same training written in plain PyTorch: no setting is lost on the way."""

import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tests.helpers.models import random_adapter, tiny_llama
from tests.helpers.run import write_setting
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from grasp_lora.cli.main import main
from grasp_lora.control.controller import GraspController
from grasp_lora.control.policy import RatioPolicy

# A step takes all examples, so that their order does not matter, and nothing is dropped out.
CONFIG = """
name: plain
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
lora: {dropout: 0.0, r: 4}
training: {epochs: 6, batch_size: 8, learning_rate: 2e-2, lr_decay_per_epoch: 0.7, weight_decay: 0.1}
control: {micro_dev: 4, every: 2, p_min: 0.0}
methods: [grasp]
max_length: 40
max_new_tokens: 6
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("plain"), CONFIG)
    for seed, language in enumerate(("en", "ar")):
        random_adapter(
            tiny_llama(), folder / language, seed=seed, target_modules=["q_proj", "v_proj"], r=4, lora_alpha=8
        )
        config = folder / language / "adapter_config.json"
        named = {**json.loads(config.read_text()), "base_model_name_or_path": str(folder / "backbone")}
        config.write_text(json.dumps(named))
    return folder


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def nll(model, tokenizer, row):
    """The NLL of each target token of one example, end-of-text included, at most six."""
    prompt = tokenizer(f"say {row['text']}\n")["input_ids"]
    target = [*tokenizer(row["title"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id][:6]
    logits = model(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none")


def train(folder, model, max_grad_norm, after_step=lambda epoch: None, prepare=lambda optimizer: None):
    """Six full-batch steps of AdamW, the rate falling after each; calls `after_step` with the step's
    number.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder / "backbone")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-2, weight_decay=0.1)
    prepare(optimizer)
    for step in range(1, 7):
        model.train()
        torch.cat([nll(model, tokenizer, row) for row in rows(folder, "ar-train")]).mean().backward()
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        after_step(step)
        optimizer.param_groups[0]["lr"] *= 0.7


def mean_loss(model, folder, name):
    tokenizer = AutoTokenizer.from_pretrained(folder / "backbone")
    model.eval()
    with torch.no_grad():
        return sum(nll(model, tokenizer, row).mean().item() for row in rows(folder, name)) / len(
            rows(folder, name)
        )


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.02, 1.0])
def test_an_adapter_is_trained_as_a_plain_loop_does_it(setting, tmp_path, max_grad_norm):
    override = f"training.max_grad_norm={max_grad_norm}"
    arguments = ["adapter", "--side", "target", str(setting / "run.yaml"), f"runs={tmp_path}", override]
    assert main(arguments) == 0
    made = tmp_path / "plain/adapters/ar"
    set_seed(42)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(setting / "backbone"), config)
    losses = [mean_loss(model, setting, "ar-dev")]
    weights = []

    def keep(step):
        losses.append(mean_loss(model, setting, "ar-dev"))
        weights.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})

    train(setting, model, max_grad_norm, keep)
    found = json.loads((made / "dev_losses.json").read_text())
    assert found["by_epoch"] == pytest.approx(losses[: len(found["by_epoch"])], rel=1e-3)
    best = weights[found["best_epoch"] - 1]
    for name, weight in load_file(made / "adapter_model.safetensors").items():
        expected = best[name.replace(".weight", ".default.weight")]
        torch.testing.assert_close(weight, expected, rtol=1e-2, atol=2e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"unit": "tensor"},
        {"importance_refresh": "start"},
        {"select": "last"},
        {"every": 3, "candidates": 2, "eta": 0.4, "beta": 0.9, "tau": 0.1, "d_max": 0.3, "p_max": 0.6},
    ],
    ids=str,
)
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05])
def test_a_ratio_is_learned_as_a_plain_loop_does_it(setting, tmp_path, changes, max_grad_norm):
    control = {"micro_dev": 4, "every": 2, "p_min": 0.0, **changes}
    sides = [f"{side}.adapter={setting / code}" for side, code in (("source", "en"), ("target", "ar"))]
    overrides = [
        f"runs={tmp_path}",
        f"control={json.dumps(control)}",
        f"training.max_grad_norm={max_grad_norm}",
        *sides,
    ]
    assert main(["merge", str(setting / "run.yaml"), *overrides]) == 0
    assert main(["learn", str(setting / "run.yaml"), *overrides]) == 0
    base = AutoModelForCausalLM.from_pretrained(setting / "backbone")
    model = PeftModel.from_pretrained(base, tmp_path / "plain/merged", is_trainable=True)
    how = {
        key: control.pop(key) for key in ("every", "unit", "importance_refresh", "select") if key in control
    }
    del control["micro_dev"]
    parts = [SimpleNamespace(name=n, start=s, stop=s + 4) for n, s in (("en", 0), ("ar", 4))]
    sites = [f"model.layers.{i}.self_attn.{m}" for i in (0, 1) for m in ("q_proj", "v_proj")]
    made = []

    def reward(model):
        return -mean_loss(model, setting, "ar-micro_dev")

    def start(optimizer):
        policy = RatioPolicy(**control, seed=42)
        options = {"parts": dict.fromkeys(sites, parts), "policy": policy, **how}
        made.append(GraspController(model, optimizer, reward, **options))

    train(setting, model, max_grad_norm, lambda step: made[0].after_optimizer_step(), start)
    learned = tmp_path / "plain/learn/seed42"
    rounds = [json.loads(line) for line in (learned / "rounds.jsonl").read_text().splitlines()]
    assert len(rounds) == len(made[0].rounds) == 6 // how["every"]
    for found, expected in zip(rounds, made[0].rounds, strict=True):
        assert found["base_reward"] == pytest.approx(expected.base_reward, rel=1e-3)
        assert [x["p"] for x in found["probes"]] == pytest.approx([x.p for x in expected.probes], abs=1e-2)
        assert found["p_next"] == pytest.approx(expected.p_next, abs=1e-2)
        rewards = [x["reward"] for x in found["probes"]]
        assert rewards == pytest.approx([x.reward for x in expected.probes], abs=2e-3)
    ratio = json.loads((learned / "ratio.json").read_text())
    assert ratio["rule"] == how.get("select", "best")
    assert ratio["p"] == pytest.approx(made[0].result.best_ratio, abs=1e-2)
