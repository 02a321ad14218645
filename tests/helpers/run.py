"""A backbone, a task and a config on disk, small enough to run everything in seconds."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer

import grasp_lora

WORDS = ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi", "ij", "jk", "kl", "lm", "mn", "no", "op", "pq"]
SPLITS = {
    "en": {"train": 12, "dev": 4},
    "ar": {"train": 8, "dev": 4, "micro_dev": 4, "test": 6},
}
TASK = """
name: copy
prompt: "say {text}\\n"
target: title
metrics: [rouge1, rougeL, bleu, chrf, em, f1]
languages:
  en: {train: en-train.jsonl, dev: en-dev.jsonl}
  ar: {train: ar-train.jsonl, dev: ar-dev.jsonl, micro_dev: ar-micro_dev.jsonl, test: ar-test.jsonl}
"""
# Older PEFT is refused its svd.
SVD = "svd" if tuple(map(int, version("peft").split(".")[:2])) >= (0, 21) else "linear"
CONFIG = """
name: tiny
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
training: {epochs: 2, learning_rate: 1e-2}
control: {micro_dev: 4, every: 2, p_min: 0.0}
methods:
  - zero_shot
  - lora_source
  - lora_target
  - sequential
  - merge_untrained
  - merge
  - ties
  - SVD
  - merge_prune
  - grid
  - random
  - optuna
  - lorahub
  - grasp
  - rank_check
seeds: [42, 7]
variants: {no_anchor: {beta: 0.0, select: last}, by_tensor: {unit: tensor}}
grid: [0.2, 0.4, 0.6]
optuna: {trials: 3}
lorahub: {budget: 6}
combine: {density: 0.4, weights: {en: 1.0, ar: 0.5}}
evaluation: {generate: null, metrics: task, deployment: true}
max_length: 40
max_new_tokens: 6
""".replace("SVD", SVD)


def run_in(folder: Path, **settings: Any) -> Path:
    """The run folder that `run.yaml` of a setting makes, from inside the setting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder / grasp_lora.run("run.yaml", **settings).folder


def write_setting(folder: Path, config: str = CONFIG, model: Any = None, tokenizer: Any = None) -> Path:
    """`backbone/`, `task.yaml` with its files, and `run.yaml`; returns the folder."""
    (model or tiny_llama()).save_pretrained(folder / "backbone")
    (tokenizer or tiny_tokenizer()).save_pretrained(folder / "backbone")
    (folder / "task.yaml").write_text(TASK)
    number = 0
    for language, splits in SPLITS.items():
        for split, count in splits.items():
            with (folder / f"{language}-{split}.jsonl").open("w") as file:
                for _ in range(count):
                    word = WORDS[number % 16] + WORDS[number // 16]
                    file.write(json.dumps({"text": f"{word} {number}", "title": word}) + "\n")
                    number += 1
    text = config.replace("BACKBONE", str(folder / "backbone")).replace("TASK", str(folder / "task.yaml"))
    (folder / "run.yaml").write_text(text)
    return folder
