"""A small finished run, whose files are what the kinds of input begin with."""

from pathlib import Path

from tests.helpers.run import write_setting

from grasp_lora.cli.main import main

__all__ = ["make_run"]

CONFIG = """
name: tiny
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
training: {epochs: 2, learning_rate: 1e-2}
control: {micro_dev: 4, every: 2, p_min: 0.0}
methods: [grid, grasp]
grid: [0.2, 0.6]
evaluation: {generate: null, metrics: [rougeL, bleu]}
max_length: 40
max_new_tokens: 6
"""


def make_run(folder: Path) -> Path:
    """Run it in a new folder; returns the run's own."""
    folder.mkdir(parents=True)
    setting = write_setting(folder, CONFIG)
    assert main(["run", str(setting / "run.yaml"), f"runs={folder}/runs"]) == 0
    return folder / "runs/tiny"
