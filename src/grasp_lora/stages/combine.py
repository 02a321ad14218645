"""Baselines without training: PEFT's own combinations of the two adapters."""

from pathlib import Path

from grasp_lora.merging import combine_with_peft
from grasp_lora.stages.inputs import Inputs, adapter_digest, adapter_folder, flat
from grasp_lora.stages.run_directory import RunDirectory

__all__ = ["combine"]


def combine(inputs: Inputs, run: RunDirectory, method: str) -> Path:
    """Combine source and target adapter by a PEFT method into `combined/METHOD`: a PEFT adapter."""
    config = inputs.config
    sides = {side.language: adapter_folder(run, side) for side in (config.source, config.target)}
    settings = config.combine.model_dump()
    if not method.startswith(("ties", "dare", "magnitude")):
        del settings["density"]  # these prune nothing
    if not method.endswith("svd"):
        del settings["rank"]

    def work(folder: Path) -> None:
        combine_with_peft(sides, folder, method, seed=config.seed, **settings)

    dependencies = {
        "method": method,
        **flat("combine", settings),
        "seed": config.seed,
        **{f"adapter.{name}": adapter_digest(path) for name, path in sides.items()},
    }
    return run.stage(f"combined/{method}", dependencies, work)
