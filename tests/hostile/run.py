"""A small finished run, whose files are what the kinds of input begin with."""

from pathlib import Path

from tests.helpers.run import CONFIG, write_setting

from grasp_lora.cli.main import main

__all__ = ["make_run"]

SMALL = """
methods: [grid, grasp]
grid: [0.2, 0.6]
evaluation: {generate: null, metrics: [rougeL, bleu]}
max_length: 40
max_new_tokens: 6
"""


def make_run(folder: Path) -> Path:
    """Run it in a new folder; returns the run's own."""
    folder.mkdir(parents=True)
    setting = write_setting(folder, CONFIG[: CONFIG.index("methods:")] + SMALL)
    assert main(["run", str(setting / "run.yaml"), f"runs={folder}/runs"]) == 0
    return folder / "runs/tiny"
