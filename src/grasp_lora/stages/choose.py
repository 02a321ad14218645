"""The grid's last step: the fine-tuned adapter with the lowest dev loss."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from grasp_lora.workspace.records import ADAPTER_FILES, MASK_FILE, DevLosses, Importance, LearnedRatio, Pruned
from grasp_lora.workspace.stage import Work

__all__ = ["CHOOSE"]


def choose(
    resources: Any,
    folder: Path,
    *,
    points: Mapping[float, Path],
    of: Literal["p", "threshold", "learning_rate"] = "p",
) -> None:
    """Leaves the best adapter of several and `LearnedRatio`; of equal losses the smaller ratio wins.

    Args:
        points: Ratio, threshold or learning rate -> the folder of the training at it.
        of: Which of these.
    """
    losses = {p: DevLosses.read(made).best for p, made in sorted(points.items())}
    best = min(losses, key=lambda p: losses[p])
    for file in (*ADAPTER_FILES, MASK_FILE, Pruned.FILE, Importance.FILE, DevLosses.FILE):
        if (points[best] / file).exists():  # pruning at every step leaves no mask
            shutil.copyfile(points[best] / file, folder / file)
    found: dict[str, Any] = {of: best, "dev_loss": {str(p): loss for p, loss in losses.items()}}
    if (points[best] / LearnedRatio.FILE).exists():  # a learning rate, chosen at each ratio
        found = {"learning_rate": LearnedRatio.read(points[best]).learning_rate} | found
    LearnedRatio(**found).write(folder)


CHOOSE = Work(choose)
