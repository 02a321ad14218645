"""The grid's last step: the fine-tuned adapter with the lowest dev loss."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from grasp_lora.stages.run_directory import RunDirectory, write_json
from grasp_lora.stages.tuning import best_dev_loss

__all__ = ["choose"]


def choose(run: RunDirectory, candidates: Mapping[float, str], name: str) -> Path:
    """Copy the best of several `finetune` stages into the stage `name`.

    Leaves the adapter and `ratio.json` with the best dev loss by ratio; of equal losses the smaller ratio
    wins.

    Args:
        candidates: Ratio -> stage.
    """

    def work(folder: Path) -> None:
        losses = {p: best_dev_loss(run.path(stage)) for p, stage in sorted(candidates.items())}
        best = min(losses, key=lambda p: losses[p])
        for file in ("adapter_config.json", "adapter_model.safetensors", "mask.safetensors", "pruned.json"):
            if (run.path(candidates[best]) / file).exists():  # pruning at every step leaves no mask
                shutil.copyfile(run.path(candidates[best]) / file, folder / file)
        write_json(folder / "ratio.json", {"p": best, "dev_loss": {str(p): x for p, x in losses.items()}})

    inputs = {
        f"p{p}.{file}": run.output(stage, file)
        for p, stage in candidates.items()
        for file in ("adapter_model.safetensors", "dev_losses.json")
    }
    return run.stage(name, inputs, work)
