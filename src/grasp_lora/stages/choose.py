"""The grid's last step: the fine-tuned adapter with the lowest dev loss."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grasp_lora.workspace.records import ADAPTER_FILES, MASK_FILE, DevLosses, LearnedRatio, Pruned
from grasp_lora.workspace.stage import Work

__all__ = ["CHOOSE"]


def choose(resources: Any, folder: Path, *, points: Mapping[float, Path]) -> None:
    """Leaves the best adapter of several and `LearnedRatio`; of equal losses the smaller ratio wins.

    Args:
        points: Ratio -> the folder of the training at it.
    """
    losses = {p: DevLosses.read(made).best for p, made in sorted(points.items())}
    best = min(losses, key=lambda p: losses[p])
    for file in (*ADAPTER_FILES, MASK_FILE, Pruned.FILE):
        if (points[best] / file).exists():  # pruning at every step leaves no mask
            shutil.copyfile(points[best] / file, folder / file)
    LearnedRatio(best, dev_loss={str(p): loss for p, loss in losses.items()}).write(folder)


CHOOSE = Work(choose)
