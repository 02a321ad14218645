"""A tokenizer of single characters that fits the tiny models."""

import string
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHARACTERS = string.ascii_lowercase + " .:,\n" + string.digits
VOCABULARY = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3, **{c: i for i, c in enumerate(CHARACTERS, 4)}}


def tiny_tokenizer() -> Any:
    """Start token before every text, as Llama's and Gemma's do; 48 ids at most."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $0", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )
