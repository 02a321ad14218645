"""A tokenizer of single characters that fits the tiny models."""

import re
import string
from collections.abc import Sequence
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


# Templates of the forms that the families' own have, which are other people's texts. The tiny one is for the
# tiny tokenizer, whose vocabulary has room for three more tokens.
TINY_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<user>' if m.role == 'user' else '<model>' }}{{ m.content }}"
    "<end>{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)
CHATS = {
    "llama": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>"
    "\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "qwen": "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
    "gemma": "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "mistral": "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
}


def tiny_chat_tokenizer() -> Any:
    """The tiny tokenizer with a chat template; still 48 ids at most."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<model>", "<end>"]})
    tokenizer.chat_template = TINY_CHAT
    return tokenizer


def chat_tokenizer(template: str, *, pieces: bool = False, merges: Sequence[tuple[str, str]] = ()) -> Any:
    """One of bytes, or of characters with a space before every text, as SentencePiece has it."""
    alphabet = [*sorted({*pre_tokenizers.ByteLevel.alphabet(), "▁", "\n"}), *map("".join, merges)]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, [*merges]))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Metaspace(prepend_scheme="always")
        if pieces
        else pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    tokenizer.decoder = decoders.Metaspace() if pieces else decoders.ByteLevel()
    marks = sorted(set(re.findall(r"<\|\w+\|>|<\w+_of_turn>|\[/?INST\]", template)))
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=marks,
    )
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $0", special_tokens=[("<s>", made.bos_token_id)]
    )
    made.chat_template = template
    return made
