"""The tokenizer that a GGUF file describes.

transformers reads one too, but what it makes of these files differs by version: before 5.18 it loses Gemma's
merges and takes the start of a turn for SmolLM2's end of text, before 5.23 it leaves out Gemma's first token.
From 5.23 on, its `tokenizer.json` is byte for byte this one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["read_tokenizer"]

_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens in the format
_SPECIAL = {
    "bos_token": "ggml.bos_token_id", "eos_token": "ggml.eos_token_id", "unk_token": "ggml.unknown_token_id",
    "pad_token": "ggml.padding_token_id",
}  # fmt: skip


def read_tokenizer(file: Path, tokenizer: str, *, split_digits: bool, longest: int) -> Any:
    """The tokenizer that `file` describes: vocabulary, merges, special tokens, chat template.

    Args:
        tokenizer: Class in transformers.
        split_digits: Whether each digit is a piece of its own: the format says so only by a name.
        longest: Tokens that the model takes.
    """
    import tokenizers
    import tokenizers.pre_tokenizers as split
    import transformers
    from gguf import GGUFReader

    fields = GGUFReader(file).fields.items()
    said = {key.split(".", 1)[1]: field.contents() for key, field in fields if key.startswith("tokenizer.")}
    tokens, kinds = said["ggml.tokens"], said["ggml.token_type"]
    more = {name: tokens[said[key]] for name, key in _SPECIAL.items() if key in said}
    if "chat_template" in said:
        more["chat_template"] = said["chat_template"]
    backend = (_byte_level if said["ggml.model"] == "gpt2" else _gemma)(said)
    # Gemma's runs of spaces are user-defined too, but are in the vocabulary under another name.
    for kind, add in ((_CONTROL, backend.add_special_tokens), (_USER_DEFINED, backend.add_tokens)):
        add([
            tokenizers.AddedToken(token, normalized=False, special=kind == _CONTROL)
            for token, its in zip(tokens, kinds, strict=True)
            if its == kind and backend.token_to_id(token) is not None
        ])  # fmt: skip
    if split_digits:
        pieces = [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
        backend.pre_tokenizer = split.Sequence(pieces)
    return getattr(transformers, tokenizer)(
        tokenizer_object=backend,
        add_bos_token=said.get("ggml.add_bos_token", False),
        model_max_length=longest,
        **more,
    )


def _byte_level(said: Mapping[str, Any]) -> Any:
    from transformers import GPT2Tokenizer

    merges = [tuple(merge.split(" ")) for merge in said["ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(said["ggml.tokens"])}
    return GPT2Tokenizer(vocab=vocabulary, merges=merges).backend_tokenizer


def _gemma(said: Mapping[str, Any]) -> Any:
    """Here runs of spaces are spaces, and there are no merges: they follow from the order of the tokens."""
    from transformers import GemmaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    tokens = ("▁" * len(token) if not token.strip(" ") else token for token in said["ggml.tokens"])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = generate_merges(vocabulary, {token: -i for token, i in vocabulary.items()})
    return GemmaTokenizer(vocab=vocabulary, merges=merges).backend_tokenizer
