"""Load any causal language model and its tokenizer, frozen and ready for adapters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

from grasp_lora.errors import GraspError
from grasp_lora.failures import advice
from grasp_lora.lm.packaged.backbones import resolve_backbone
from grasp_lora.lm.quantization import (
    Quantization,
    check_quantization,
    how_to_quantize,
    same_in_both_modes,
)

__all__ = [
    "Attention",
    "Backbone",
    "DType",
    "DeviceMap",
    "check_loading",
    "load_backbone",
    "pick_device",
    "resolve_dtype",
]

DType = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "flash_attention_2", "eager"]
DeviceMap = Literal["auto", "balanced", "balanced_low_0"] | Mapping[str, int | str]


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


def check_loading(
    *,
    device: str = "auto",
    quantization: Quantization | None = None,
    attention: Attention | None = None,
    device_map: DeviceMap | None = None,
) -> None:
    """Look whether a backbone can be loaded so, as `load_backbone` does before it reads any weights.

    Raises:
        GraspError: Something is not installed, or two settings say where it goes.
    """
    from transformers.utils import is_flash_attn_2_available

    check_quantization(quantization)
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise GraspError(
            "attention: flash_attention_2 needs a GPU and the package flash-attn (pip install flash-attn); "
            "attention: sdpa needs neither"
        )
    if device_map is not None and device != "auto":
        raise GraspError(f"device_map says where each layer goes, and device is {device}: leave one out")
    for place in set() if device_map is None or isinstance(device_map, str) else {*device_map.values()}:
        if place not in ("cpu", "disk"):  # these are refused once the model is there
            pick_device(f"cuda:{place}" if isinstance(place, int) else place)


def load_backbone(
    name: str,
    *,
    dtype: DType = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: Quantization | None = None,
    attention: Attention | None = None,
    device_map: DeviceMap | None = None,
) -> Backbone:
    """Load a causal LM by hub name, local folder or `packaged:NAME`.

    Weights are read from safetensors only. "auto" is `resolve_dtype`'s: on a CPU float32, since bfloat16 is
    slower there without special instructions. Parameters are frozen. A tokenizer without a padding
    token pads with end-of-text: padding is masked, so any id will do.

    Args:
        trust_remote_code: Whether Python code that comes with the model may run; else such a model is an
        error.
        quantization: Of its linear layers; see `how_to_quantize`.
        attention: What transformers calls `attn_implementation`; None: the model's own choice.
        device_map: What of the model goes to which device, as Accelerate names it; None: all to `device`.

    Raises:
        GraspError: The model cannot be found or read, or not so.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_loading(device=device, quantization=quantization, attention=attention, device_map=device_map)
    path = resolve_backbone(name)
    chosen = getattr(torch, resolve_dtype(dtype, device))
    more: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    if quantization is not None:
        more["quantization_config"] = how_to_quantize(quantization, chosen)
    where = {"": pick_device(device)} if device_map is None else device_map
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, padding_side="left", trust_remote_code=trust_remote_code
        )
        model = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=chosen,
            use_safetensors=True,
            device_map=where if isinstance(where, str) else dict(where),
            trust_remote_code=trust_remote_code,  # left out, it would be asked for on the terminal
            **more,
        )
    except (OSError, ValueError, SafetensorError) as error:
        elsewhere = None if Path(path).is_dir() else advice(error, asked_hub=True)
        why = elsewhere or next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        if "trust_remote_code" in str(error):
            why += " Read that code; then trust_remote_code: true in the config lets it run"
        raise GraspError(f"cannot load the backbone '{name}': {why}") from error
    if tokenizer.eos_token_id is None:
        raise GraspError(f"the tokenizer of '{name}' has no end-of-text token to end an answer with")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _check_places(model)
    same_in_both_modes(model)
    model.requires_grad_(False)
    return Backbone(model.eval(), tokenizer, path, _commit(path, revision))


def _check_places(model: nn.Module) -> None:
    """What is beside the others on the CPU or the disk would be fetched and dropped again in each pass."""
    places: dict[str, str] = {name: str(place) for name, place in getattr(model, "hf_device_map", {}).items()}
    beside = [name for name, place in places.items() if place in ("cpu", "disk")]
    if beside and len(set(places.values())) > 1:
        more = f" and {len(beside) - 2} more" if len(beside) > 2 else ""
        raise GraspError(
            f"device_map leaves {', '.join(beside[:2])}{more} of the backbone on the CPU or the disk, beside "
            "which nothing is trained: set quantization: nf4, or take more GPUs"
        )


def _commit(path: str, revision: str | None) -> str | None:
    if Path(path).is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None
