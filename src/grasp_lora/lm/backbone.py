"""Load any causal language model and its tokenizer, frozen and ready for adapters."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from grasp_lora.errors import GraspError
from grasp_lora.lm.packaged.backbones import resolve_backbone

__all__ = ["Backbone", "DType", "load_backbone", "pick_device", "resolve_dtype"]

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A frozen model and its tokenizer. `path` is what transformers loads: a hub name or a folder."""

    model: nn.Module
    tokenizer: Any
    path: str


def pick_device(device: str = "auto") -> torch.device:
    """The named device, or for "auto" a CUDA GPU where there is one, else the CPU.

    Raises:
        GraspError: There is no such device here.
    """
    if device != "auto":
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
            why = str(error).splitlines()[0]
            raise GraspError(f"device: {device!r} cannot be used here: {why}") from None
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(dtype: DType = "auto", device: str = "auto") -> str:
    """What "auto" stands for on this machine: bfloat16 on a GPU, float32 on a CPU."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if pick_device(device).type == "cuda" else "float32"


def load_backbone(
    name: str, *, dtype: DType = "auto", device: str = "auto", revision: str | None = None
) -> Backbone:
    """Load a causal LM by hub name, local folder or `packaged:NAME`.

    Weights are read from safetensors only. "auto" is `resolve_dtype`'s: on a CPU float32, since bfloat16 is
    slower there without special instructions. Parameters are frozen. A tokenizer without a padding
    token pads with end-of-text: padding is masked, so any id will do.

    Raises:
        GraspError: The model cannot be found or read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_backbone(name)
    target = pick_device(device)
    chosen = getattr(torch, resolve_dtype(dtype, device))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, dtype=chosen, use_safetensors=True, device_map={"": target}
        )
    except (OSError, ValueError) as error:
        raise GraspError(f"cannot load the backbone '{name}': {str(error).splitlines()[0]}") from error
    if tokenizer.eos_token_id is None:
        raise GraspError(f"the tokenizer of '{name}' has no end-of-text token to end an answer with")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.requires_grad_(False)
    return Backbone(model.eval(), tokenizer, path)
