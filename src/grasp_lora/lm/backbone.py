"""Load any causal language model and its tokenizer, frozen and ready for adapters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

from grasp_lora.errors import GraspError
from grasp_lora.failures import advice
from grasp_lora.lm.packaged.backbones import resolve_backbone

__all__ = ["Backbone", "DType", "load_backbone", "pick_device", "resolve_dtype"]

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A frozen model and its tokenizer. `path` is what transformers loads: a hub name or a folder.
    `commit` is the hub's, whatever branch or tag was asked for; None for a folder.
    """

    model: nn.Module
    tokenizer: Any
    path: str
    commit: str | None = None


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
    name: str,
    *,
    dtype: DType = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a causal LM by hub name, local folder or `packaged:NAME`.

    Weights are read from safetensors only. "auto" is `resolve_dtype`'s: on a CPU float32, since bfloat16 is
    slower there without special instructions. Parameters are frozen. A tokenizer without a padding
    token pads with end-of-text: padding is masked, so any id will do.

    Args:
        trust_remote_code: Whether Python code that comes with the model may run; else such a model is an
        error.

    Raises:
        GraspError: The model cannot be found or read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_backbone(name)
    target = pick_device(device)
    chosen = getattr(torch, resolve_dtype(dtype, device))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, padding_side="left", trust_remote_code=trust_remote_code
        )
        model = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=chosen,
            use_safetensors=True,
            device_map={"": target},
            trust_remote_code=trust_remote_code,  # left out, it would be asked for on the terminal
        )
    except (OSError, ValueError, SafetensorError) as error:
        elsewhere = None if Path(path).is_dir() else advice(error)
        why = elsewhere or next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        if "trust_remote_code" in str(error):
            why += " Read that code; then trust_remote_code: true in the config lets it run"
        raise GraspError(f"cannot load the backbone '{name}': {why}") from error
    if tokenizer.eos_token_id is None:
        raise GraspError(f"the tokenizer of '{name}' has no end-of-text token to end an answer with")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.requires_grad_(False)
    return Backbone(model.eval(), tokenizer, path, _commit(path, revision))


def _commit(path: str, revision: str | None) -> str | None:
    if Path(path).is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None
