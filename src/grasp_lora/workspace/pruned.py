"""What a pruned adapter's folder says of its pruning."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.merge_prune import MergePruneCallback
from grasp_lora.control.pruning import pruned_share
from grasp_lora.workspace.records import MASK_FILE, Importance, Pruned

__all__ = ["say_what_mask_pruned", "say_what_steps_pruned"]


def say_what_mask_pruned(
    masked: MaskedAdapter, importance: Mapping[str, float], norms: Mapping[str, float], folder: Path
) -> None:
    """Leave the mask in force, `Pruned` and `Importance`.

    Args:
        importance, norms: Of each unit, as the mask was built; training changes them.
    """
    masks = masked.masks()
    save_file(masks, folder / MASK_FILE)
    share = pruned_share(masks.values())
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
