"""Backbones whose linear layers take 4 or 8 bits a weight, through bitsandbytes; adapters stay in float32."""

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from grasp_lora.errors import GraspError

__all__ = ["Quantization", "check_quantization", "how_to_quantize", "quantization_of", "same_in_both_modes"]

Quantization = Literal["nf4", "int8"]


def check_quantization(quantization: Quantization | None) -> None:
    """Look whether it can be had here.

    Raises:
        GraspError: bitsandbytes is not installed.
    """
    if quantization is not None and find_spec("bitsandbytes") is None:
        raise GraspError(
            f"quantization: {quantization} needs bitsandbytes; install the extra 'quant': "
            'pip install "grasp-lora[quant]"'
        )


def how_to_quantize(quantization: Quantization, dtype: torch.dtype) -> Any:
    """What transformers loads a model with: QLoRA's NF4 with double quantization, or LLM.int8().

    Embeddings, norms and the output embedding keep `dtype`, which is also that of what layers compute.
    """
    from transformers import BitsAndBytesConfig

    if quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    # One line for each layer of each pass: LLM.int8() always computes with float16's range.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return BitsAndBytesConfig(load_in_8bit=True)


def quantization_of(model: nn.Module) -> str | None:
    """What the model's linear layers are in: nf4, llm_int8, or what else it came in; None: full weights."""
    if not getattr(model, "is_quantized", False):
        return None
    config: Any = getattr(model, "config").quantization_config  # noqa: B009  # to mypy a module has none
    method = getattr(config, "quantization_method", None)
    return str(method() if method is not None else config.quant_method)


def same_in_both_modes(model: nn.Module) -> None:
    """Let layers compute in eval mode as they do in training.

    Where a CPU knows bfloat16, bitsandbytes packs 4-bit weights for it in the first pass in eval mode. Packed
    ones have no gradient, and here training goes on after each evaluation.
    """
    layers: Iterable[Any] = model.modules()
    for layer in layers:
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
