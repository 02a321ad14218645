"""The real thing, small: a pretrained model and the handbook, from the command line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CONFIG = """
name: smol
backbone: packaged:smollm2-135m
task: handbook
source: {language: en, train_examples: 8, dev_examples: 4}
target: {language: ar, train_examples: 8, dev_examples: 4}
training: {epochs: 1}
learn: {training: {epochs: 1}}
control: {every: 4, micro_dev: 4, p_min: 0.0}
methods: [lora_target, grasp]
evaluation: {test_examples: 4, generate: 2}
max_length: 96
max_new_tokens: 24
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    pytest.importorskip("gguf")
    if shutil.which("apt-get") is None:
        pytest.skip("the handbook comes through apt")
    folder = tmp_path_factory.mktemp("smol")
    (folder / "run.yaml").write_text(CONFIG)
    grasp = [sys.executable, "-m", "grasp_lora.cli.main"]
    done = subprocess.run(
        [*grasp, "run", "run.yaml"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "smol", done


def test_learns_a_ratio_and_says_so(finished):
    run, done = finished
    rounds = (run / "learn/seed42/rounds.jsonl").read_text().splitlines()
    assert len(rounds) == 2
    ratio = json.loads((run / "learn/seed42/ratio.json").read_text())
    assert f"p* = {ratio['p']:.4f}" in done.stdout
    assert "target adapter, not merged" in done.stdout
    assert re.search(
        r"^\[\d/8\] learn/seed42: done in \d+ s; about .* left of the whole run$", done.stderr, re.M
    )


def test_losses_are_those_of_a_trained_model(finished):
    run, _ = finished
    scores = json.loads((run / "eval/grasp/seed42/scores.json").read_text())
    assert 0 < scores["test_loss"] < 8  # nats per token; an even guess is 10.8
    losses = json.loads((run / "adapters/en/dev_losses.json").read_text())
    assert min(losses["by_epoch"]) < losses["by_epoch"][0]


def test_the_last_lines_load_the_adapter_and_generate(finished):
    run, done = finished
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    code = "\n".join([*lines, "print(type(model).__name__, len(tokenizer))"])
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=run.parent.parent, capture_output=True, text=True
    )
    *answer, kind, tokens = loaded.stdout.split() or ["", ""]
    assert (kind, tokens) == ("PeftModelForCausalLM", "49152"), loaded.stderr[-2000:]
    assert answer
    assert "Deploy: " in done.stdout


def test_no_file_is_left_half_written(finished):
    run, _ = finished
    assert not list(Path(run).rglob("*.partial"))
