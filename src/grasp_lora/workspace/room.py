"""Whether memory is enough for what runs are about to do, and which setting would make it so."""

import logging
from collections import defaultdict
from collections.abc import Sequence

import psutil
import torch

from grasp_lora.lm.backbone import pick_device
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.preview import preview
from grasp_lora.workspace.sizes import Lighter, Sizes
from grasp_lora.workspace.stage import Stage

__all__ = ["warn_of_memory"]

logger = logging.getLogger(__name__)

NEAR = 0.9  # of what is free: an estimate may be too low, and others want some, too
HOW: dict[Lighter, str] = {
    "training.batch_size": "half of training.batch_size, with twice gradient_accumulation,",
    "token_budget": "half of token_budget",
    "max_length": "half of max_length",
    "training.gradient_checkpointing": "training.gradient_checkpointing: true",
    "dtype": "dtype: bfloat16",
    "quantization": "quantization: nf4",
}


def warn_of_memory(plans: Sequence[tuple[RunDirectory, Sequence[Stage]]]) -> None:
    """Say in one line for each backbone where what is to be made needs more memory than there is, or nearly.

    It is an estimate, so that nothing is refused; a backbone that is not on this machine yet has none.
    """
    to_make = {(one.run, one.name) for one in preview(plans, contents=False) if one.to_make}
    stages: dict[str, list[Stage]] = defaultdict(list)
    models: dict[str, Model] = {}
    for run, planned in plans:
        for stage in planned:
            model = stage.given.get("model")
            if isinstance(model, Model) and (run.root, stage.name) in to_make:
                models[repr(model)] = model
                stages[repr(model)].append(stage)
    for name, working in stages.items():
        if said := _shortage(Sizes(plans[0][0], working), working, models[name]):
            logger.warning("%s", said)


def _shortage(sizes: Sizes, working: Sequence[Stage], model: Model) -> str | None:
    if model.device_map is not None:  # how much of it comes to which device is not known before
        return None
    device = pick_device(model.device)
    gpu = device.type == "cuda"

    def needed(lighter: Lighter | None = None) -> int | None:
        host, of_gpu = sizes.memory(working, lighter)
        return of_gpu if gpu and host is not None else host

    need, free = needed(), _free(device)
    if need is None or need <= NEAR * free:
        return None
    lower = {name: needed(name) or need for name in sizes.settings_to_lower(working)}
    best = min(lower, key=lambda name: lower[name], default=None)
    said = (
        f"memory may not be enough: about {need / 1e9:.1f} GB by an estimate from shapes, and "
        f"{free / 1e9:.1f} GB of {'the GPU' if gpu else 'this machine'} are free"
    )
    if best is None or lower[best] >= need:
        return said + ": take a smaller backbone"
    return f"{said}; {HOW[best]} would need about {lower[best] / 1e9:.1f} GB"


def _free(device: torch.device) -> int:
    """Bytes that this process can have, those that it has included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + int(torch.cuda.memory_reserved(device))
    return int(psutil.virtual_memory().available + psutil.Process().memory_info().rss)
