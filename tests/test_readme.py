"""The examples of README and of the pages that it leads to run as they stand."""

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from tests.helpers.models import random_adapter, tiny_llama, tokens
from tests.helpers.tokenizer import tiny_chat_tokenizer, tiny_tokenizer

from grasp_lora import (
    Example,
    GraspCallback,
    GraspController,
    RatioCurve,
    RatioCurveCallback,
    TargetLoss,
    merge_adapters,
)
from grasp_lora.experiment import read_config as load_config
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.methods.plan import NAMES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CALLBACK = (ROOT / "docs/callback.md").read_text(encoding="utf-8")
METHODS = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
MODULES = ["q_proj", "v_proj"]


def block(page, language, number=0):
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.S)[number]


def test_the_script_is_the_example_word_for_word():
    assert block(README, "python") == (ROOT / "examples/trainer.py").read_text(encoding="utf-8")
    assert len(re.findall("```python", README)) == 1


def test_a_newcomer_reads_it_in_minutes():
    lines = README.splitlines()
    assert len(lines) < 180
    assert lines.index("## Installing") < 15


def test_the_table_of_methods_names_all():
    rows = re.findall(r"^\| (`.*?) \|", METHODS, flags=re.M)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert named - set(NAMES.all) == {"cross_validate", "curve", "sweep"}
    assert set(NAMES.all) <= named


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """A trainable merged adapter in `merged`, made by the page's own call."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("en", "ar")):
        random_adapter(tiny_llama(), tmp_path / name, seed=seed, target_modules=MODULES, r=4)
    call = re.search(r"`(merge_adapters\(.*?\))`\.", CALLBACK, flags=re.S)[1]
    eval(call, {"merge_adapters": merge_adapters, "Path": Path})
    return PeftModel.from_pretrained(tiny_llama(), "merged", is_trainable=True)


def test_the_callback_example(merged, capsys):
    pytest.importorskip("trl")
    rows = [{"prompt": f"say {t}:", "completion": t} for t in ("abc", "bcd", "cde", "def") * 4]
    code = block(CALLBACK, "python").replace('SFTConfig("out")', 'SFTConfig("out", use_cpu=True, bf16=False)')
    names = {
        "model": merged,
        "tokenizer": tiny_tokenizer(),
        "train": Dataset.from_list(rows),
        "micro_dev": rows,
    }
    exec(code.replace("every=10", "every=2"), names)
    assert 0.1 <= float(capsys.readouterr().out.splitlines()[-1]) <= 0.8
    assert len(code.strip().splitlines()) <= 10


def test_the_plain_loop_example(merged, capsys):
    batches = [{"input_ids": tokens(seed=i), "labels": tokens(seed=i)} for i in range(10)]
    names = {
        "GraspController": GraspController,
        "model": merged,
        "optimizer": torch.optim.AdamW([p for p in merged.parameters() if p.requires_grad]),
        "my_loss": lambda model: model(**batches[0]).loss.item(),
        "loader": batches,
    }
    exec(block(CALLBACK, "python", 1), names)
    assert 0.1 <= float(capsys.readouterr().out) <= 0.8


def test_the_examples_of_every_ratio(merged, tmp_path, capsys):
    rows = [{"prompt": f"say {t}:", "completion": t} for t in ("abc", "bcd", "cde", "def")]
    examples = [Example(str(i), row["prompt"], row["completion"]) for i, row in enumerate(rows)]
    trainer = build_trainer(
        merged, tiny_tokenizer(), [encode(e, tiny_tokenizer(), Limits(40, 8)) for e in examples],
        Training(max_steps=2), 42, tmp_path / "out", "training",
    )  # fmt: skip
    names = {"RatioCurveCallback": RatioCurveCallback, "trainer": trainer, "held_out": rows}
    exec(block(CALLBACK, "python", 2), names)
    assert capsys.readouterr().out.count("(0.") == 9
    batches = [{"input_ids": tokens(seed=i), "labels": tokens(seed=i)} for i in range(3)]
    names = {
        "RatioCurve": RatioCurve,
        "model": PeftModel.from_pretrained(tiny_llama(), "merged", is_trainable=True),
        "loss": TargetLoss(examples, tiny_tokenizer(), merged),
        "loader": batches,
    }
    names["optimizer"] = torch.optim.AdamW([p for p in names["model"].parameters() if p.requires_grad])
    exec(block(CALLBACK, "python", 3), names)
    assert names["curve"].steps == 3


def test_the_example_of_halving(merged, tmp_path, capsys):
    trl = pytest.importorskip("trl")
    rows = [{"prompt": f"say {t}:", "completion": t} for t in ("abc", "bcd", "cde", "def") * 4]
    code = block(CALLBACK, "python", 4).replace(
        '"out", max_steps=50', '"out", max_steps=8, use_cpu=True, bf16=False'
    )
    names = {"SFTTrainer": trl.SFTTrainer, "SFTConfig": trl.SFTConfig, "model": merged}
    names |= {"tokenizer": tiny_tokenizer(), "train": Dataset.from_list(rows), "micro_dev": rows[:4]}
    exec(code.replace("rungs=(6, 12)", "rungs=(2, 4)"), names)
    assert capsys.readouterr().out.splitlines()[-1].startswith("0.")
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()
    assert len(code.strip().splitlines()) <= 13


def test_the_example_of_an_eval_dataset(merged, capsys):
    trl = pytest.importorskip("trl")
    rows = [
        {"prompt": [{"role": "user", "content": t}], "completion": [{"role": "assistant", "content": t}]}
        for t in ("abc", "bcd", "cde", "def") * 4
    ]
    code = block(CALLBACK, "python", 5).replace(
        'SFTConfig("out")', 'SFTConfig("out", use_cpu=True, bf16=False)'
    )
    names = {"SFTTrainer": trl.SFTTrainer, "SFTConfig": trl.SFTConfig, "GraspCallback": GraspCallback}
    names |= {"model": merged, "tokenizer": tiny_chat_tokenizer(), "train": Dataset.from_list(rows)}
    names["held_out"] = names["train"].select(range(4))
    exec(code.replace("every=10", "every=2"), names)
    assert 0.1 <= float(capsys.readouterr().out.splitlines()[-1]) <= 0.8


def test_the_yaml_example_is_valid(tmp_path):
    (tmp_path / "titles.yaml").write_text(block(README, "yaml"), encoding="utf-8")
    config = load_config(tmp_path / "titles.yaml", ["control.every=5", "name=titles-k5"])
    assert config.task.languages["ar"]["micro_dev"] == tmp_path / "ar/micro.jsonl"


@pytest.mark.parametrize("page", ["PAPER.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/rows.md"])
def test_pages_name_files_that_are_there(page):
    named = re.findall(r"`([\w/.]+/(?:\w+\.\w+)?)`", (ROOT / page).read_text(encoding="utf-8"))
    missing = [
        name
        for name in named
        if not any((ROOT / base / name).exists() for base in (".", "src/grasp_lora", "docs"))
    ]
    assert named
    assert not missing
