"""The grid's last step: the fine-tuned adapter that is best on dev."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from grasp_lora.merging.hub import ADAPTER_FILES
from grasp_lora.ratios import PruneRatio, in_order
from grasp_lora.workspace.records import MASK_FILE, DevLosses, Importance, LearnedRatio, Pruned
from grasp_lora.workspace.rows import Row
from grasp_lora.workspace.stage import Work

__all__ = ["CHOOSE"]


def choose(
    resources: Any,
    folder: Path,
    *,
    points: Mapping[PruneRatio, Path],
    of: Literal["p", "threshold", "learning_rate"] = "p",
    by: str = "loss",
    scores: Mapping[PruneRatio, Path] | None = None,
) -> None:
    """Leaves the best adapter of several and `LearnedRatio`; of equal scores the lower loss wins, of equal
    losses the smaller ratio.

    Args:
        points: Ratio, threshold or learning rate -> the folder of the training at it.
        of: Which of these.
        by: "loss", or the metric of the dev answers that is to be high.
        scores: Where a metric chooses, the folders of the evaluations on dev.
    """
    losses = {p: DevLosses.read(made).best for p, made in in_order(points)}
    found: dict[str, Any] = {"dev_loss": {str(p): loss for p, loss in losses.items()}}
    best = min(losses, key=losses.__getitem__)
    if scores is not None:
        reached = {p: Row.read(made).scores[by]["value"] for p, made in in_order(scores)}
        best = max(reached, key=lambda p: (reached[p], -losses[p]))
        found |= {"rule": by, "dev_score": {str(p): value for p, value in reached.items()}}
    for file in (*ADAPTER_FILES, MASK_FILE, Pruned.FILE, Importance.FILE, DevLosses.FILE):
        if (points[best] / file).exists():  # pruning at every step leaves no mask
            shutil.copyfile(points[best] / file, folder / file)
    found[of] = best
    if (points[best] / LearnedRatio.FILE).exists():  # a learning rate, chosen at each ratio
        found = {"learning_rate": LearnedRatio.read(points[best]).learning_rate} | found
    LearnedRatio(**found).write(folder)


def _about(
    folder: Path, *, points: Mapping[PruneRatio, Any], of: str = "p", by: str = "loss", **_: Any
) -> str:
    what, tried = of.replace("_", " "), ", ".join(f"{point:g}" for point in points)
    return f"{what} = {LearnedRatio.read(folder).found:g} was the best of {tried} by the dev {by}."


CHOOSE = Work(choose, about=_about)
