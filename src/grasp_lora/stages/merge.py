"""Stage 2: one adapter from two (GRASP Sec. 3.2, Eq. 1)."""

from pathlib import Path

from grasp_lora.merging import merge_adapters
from grasp_lora.stages.inputs import Inputs, adapter_digest, adapter_folder
from grasp_lora.stages.run_directory import RunDirectory

__all__ = ["merge"]


def merge(inputs: Inputs, run: RunDirectory) -> Path:
    """Merge source and target adapter into `merged`: a PEFT adapter and parts.json."""
    config = inputs.config
    sides = {side.language: adapter_folder(run, side) for side in (config.source, config.target)}

    def work(folder: Path) -> None:
        merge_adapters(sides, folder, method=config.merge)

    dependencies = {"merge": config.merge, **{f"adapter.{n}": adapter_digest(f) for n, f in sides.items()}}
    return run.stage("merged", dependencies, work)
