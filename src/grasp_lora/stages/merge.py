"""Stage 2: one adapter from two (GRASP Sec. 3.2, Eq. 1)."""

import shutil
from pathlib import Path

from grasp_lora.merging import merge_adapters
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.run_directory import RunDirectory
from grasp_lora.stages.train_adapter import adapter_folder

__all__ = ["merge"]


def merge(inputs: Inputs, run: RunDirectory) -> Path:
    """Merge source and target adapter into `merged`: a PEFT adapter and parts.json."""
    config = inputs.config
    sides = {side.language: adapter_folder(run, side) for side in (config.source, config.target)}

    def work(folder: Path) -> None:
        made = folder / "made"
        merge_adapters({name: path for name, (path, _) in sides.items()}, made, method=config.merge)
        for path in made.iterdir():
            shutil.move(path, folder)
        made.rmdir()

    dependencies = {"merge": config.merge, **{f"adapter.{name}": sha for name, (_, sha) in sides.items()}}
    return run.stage("merged", dependencies, work)
