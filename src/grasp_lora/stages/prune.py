"""A trained adapter pruned once, at the end, and not trained any more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.units import Pruning, UnitKind, adapter_parameters
from grasp_lora.lm.adapters import load_adapter, save_adapter
from grasp_lora.lm.encoding import Limits
from grasp_lora.merging.parts import read_parts
from grasp_lora.ratios import PruneRatio
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.chosen import found_by
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.pruned import say_what_mask_pruned
from grasp_lora.workspace.records import DevLosses, Pruned
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work

__all__ = ["PRUNE"]


def prune(
    resources: Resources,
    folder: Path,
    *,
    model: Model,
    adapter: Path,
    parts: Path,
    ratio: PruneRatio | Path,
    unit: UnitKind,
    dev: Sequence[Example] | None,
    limits: Limits,
) -> None:
    """Leaves the pruned adapter, its mask, `Pruned` and `DevLosses`.

    Args:
        parts: The folder of the merge that it was trained from, whose parts the prune units follow.
        ratio: A number, or the folder of the stage that found one.
    """
    backbone, p = resources.backbone(model), found_by(ratio)
    adapted = load_adapter(backbone.model, adapter, trainable=True)
    masked = MaskedAdapter(adapter_parameters(adapted), Pruning(read_parts(parts), unit))
    importance = masked.importances()
    masked.commit(p)
    save_adapter(adapted, folder, adapter)
    say_what_mask_pruned(masked, importance, masked.pruned_norms(), folder, read_parts(parts))
    if dev is not None:
        DevLosses((resources.loss(dev, backbone, limits)(adapted),), 0).write(folder)


def _passes(*, dev: Sequence[Example] | None, **_: Any) -> int:
    return len(dev or ())


def _about(folder: Path, **_: Any) -> str:
    return f"Pruned once, at p = {Pruned.read(folder).p:.4g}, and not trained any more."


PRUNE = Work(prune, passes=_passes, about=_about)
