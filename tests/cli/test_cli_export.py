"""`grasp export` as it is called, on a tiny model."""

import re

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.helpers.models import random_adapter, tiny_gpt2, tiny_llama, tokens
from tests.helpers.run import write_setting
from transformers import AutoModelForCausalLM, AutoTokenizer

from grasp_lora.cli.main import main
from grasp_lora.lm import adapters
from grasp_lora.lm.agreement import agreement, logits_of

QV = ["q_proj", "v_proj"]


@pytest.fixture
def setting(tmp_path):
    folder = write_setting(tmp_path)
    random_adapter(
        AutoModelForCausalLM.from_pretrained(folder / "backbone"),
        folder / "adapter",
        seed=5,
        target_modules=QV,
        r=4,
        rank_pattern={"v_proj": 6},
    )
    return folder


def export(folder, *arguments):
    return main(["export", str(folder / "adapter"), "--to", str(folder / "out"), *map(str, arguments)])


def test_the_logits_are_compared_on_a_backbone(setting, capsys):
    assert export(setting, "--for", "vllm", "--base", setting / "backbone") == 0
    said = capsys.readouterr().out
    assert "For vllm, every module has rank 8 and scaling 1: start it with --max-lora-rank 8." in said
    assert re.search(r"Logits on 4 prompts are within \S+e-0[5-9] of their spread \(allowed: 1.0e-04\)", said)
    assert "the same at 100.0% of the positions" in said


def test_the_dev_loss_before_and_after(setting, capsys):
    given = ("--config", setting / "run.yaml", f"runs={setting}/runs", "name=mine")
    assert export(setting, "--rank", 1, *given) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"Rank 1 instead of 4 to 6. Of a delta W's squared norm that gave up \d\d\.\d+% at", said
    )
    before, after = map(float, re.search(r"Dev loss: (\S+) before, (\S+) after", said).groups())
    assert before != after
    assert not (setting / "runs").exists()
    main(["evaluate", str(setting / "adapter"), str(setting / "run.yaml"), f"runs={setting}/runs"])
    scored = re.search(r"\| adapter +\| +([\d.]+) \|", capsys.readouterr().out)
    assert float(scored[1]) == before


def test_full_weights(setting, capsys):
    given = ("--config", setting / "run.yaml", f"runs={setting}/runs")
    assert export(setting, "--merge-into-base", *given) == 0
    said = capsys.readouterr().out
    assert re.search(r"Full weights in fp32. Logits on 4 prompts are within \S+e-0[5-9]", said)
    assert re.search(r"\(\+0.0000 nats|\(-0.0000 nats", said)
    merged = AutoModelForCausalLM.from_pretrained(setting / "out")
    beside = PeftModel.from_pretrained(tiny_llama(), setting / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens()).logits, beside(tokens()).logits, rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(setting / "out")("ab")["input_ids"] == [1, 4, 5]
    assert str(setting) not in "".join(path.read_text() for path in (setting / "out").glob("*.json"))


def test_a_merge_that_is_not_the_same_is_removed(setting, capsys, monkeypatch):
    right = adapters.merge_into_base

    def wrong(adapted, tokenizer, folder, dtype):
        right(adapted, tokenizer, folder, dtype)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.1.self_attn.v_proj.weight"] *= 1.01
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr("grasp_lora.workspace.exporting.merge_into_base", wrong)
    assert export(setting, "--merge-into-base") == 2
    assert re.search("logits differ from the original's by .* is allowed; nothing", capsys.readouterr().err)
    assert not (setting / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--merge-into-base", "--for", "vllm"], "every loader reads full weights: leave --for vllm out"),
        (["name=x"], "'name=x' is a key of a config: give that with --config"),
        (["--energy", "99"], "such as 0.99"),
        (["--base", "nowhere"], "cannot load the backbone 'nowhere'"),
    ],
)
def test_one_message(setting, capsys, arguments, reason):
    assert export(setting, *arguments) == 2
    assert reason in capsys.readouterr().err
    assert not (setting / "out").exists()


def test_agreement_by_hand():
    one = [torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([[0.0, 3.0, -3.0]])]
    assert agreement(one, one).apart == 0.0
    # squares of logits around their means: (1 + 1 + 9 + 9) / 6; of the differences: 4 / 6
    found = agreement(one, [torch.tensor([[1.0, 1.0, 0.0]]), one[1]])
    assert found.apart == pytest.approx((4 / 20) ** 0.5)
    assert agreement(one, [torch.tensor([[0.0, 1.0, 0.0]]), one[1]]).same_first == 0.5


def test_logits_of_are_the_models_own(setting):
    model = tiny_llama()
    tokenizer = AutoTokenizer.from_pretrained(setting / "backbone")
    (found,) = logits_of(model, tokenizer, ["abc"])
    ids = torch.tensor([tokenizer("abc")["input_ids"]])
    torch.testing.assert_close(found, model(ids).logits[0].detach())


def test_a_prompt_is_no_longer_than_a_models_positions(setting):
    model = tiny_gpt2().eval()
    model.config.n_positions = 2
    tokenizer = AutoTokenizer.from_pretrained(setting / "backbone")
    (found,) = logits_of(model, tokenizer, ["abc" * 9])
    ids = torch.tensor([tokenizer("abc" * 9)["input_ids"]])[:, :2]
    torch.testing.assert_close(found, model(ids).logits[0].detach())
