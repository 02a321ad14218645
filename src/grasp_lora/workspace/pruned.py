"""What a pruned adapter's folder says of its pruning."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.merge_prune import MergePruneCallback
from grasp_lora.control.pruning import pruned_share
from grasp_lora.control.units import site_of
from grasp_lora.merging.gone import drop_parts
from grasp_lora.merging.parts import Part
from grasp_lora.ratios import PerAdapter
from grasp_lora.workspace.records import MASK_FILE, Importance, Pruned

__all__ = ["say_what_mask_pruned", "say_what_steps_pruned"]


def say_what_mask_pruned(
    masked: MaskedAdapter,
    importance: Mapping[str, float],
    norms: Mapping[str, float],
    folder: Path,
    parts: Mapping[str, Sequence[Part]] | None = None,
) -> None:
    """Leave the mask in force, `Pruned` and `Importance`; the saved adapter loses what was pruned whole.

    Args:
        importance, norms: Of each unit, as the mask was built; training changes them.
        parts: Of the merge that it was trained from, where units are of its parts.
    """
    masks = masked.masks()
    share = pruned_share(masks.values())
    if parts is not None and isinstance(masked.p, PerAdapter) and 1.0 in masked.p:
        gone = [name for name, p in zip(masked.adapters, masked.p, strict=True) if p == 1.0]
        kept = drop_parts(folder, parts, gone)
        masks = {
            name: mask[kept[site]] if factor == "A" else mask[:, kept[site]]
            for name, mask in masks.items()
            for site, factor in [site_of(name)]
            if site in kept
        }
    save_file({name: mask.contiguous() for name, mask in masks.items()}, folder / MASK_FILE)
    Pruned(masked.p, masked.pruned_shares(), norms, share=share).write(folder)
    Importance(importance).write(folder)


def say_what_steps_pruned(callback: MergePruneCallback, epoch: int | None, folder: Path) -> None:
    """Leave `Pruned` and `Importance`, of the last step in the kept epoch; None: the last epoch."""
    seen = callback.epochs[-1 if epoch is None else max(epoch, 1) - 1]
    by_ratio = callback.unit == "parameter"
    Pruned(
        p=callback.p if by_ratio else None,
        threshold=None if by_ratio else callback.threshold,
        share=seen.pruned_share,
    ).write(folder)
    Importance(seen.importance).write(folder)
