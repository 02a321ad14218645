"""Prompts of 100,000 characters and more: the body is cut, not what follows it."""

import random
import time
from typing import Any

from tests.helpers.tokenizer import tiny_tokenizer
from tests.large.measuring import forget_peak, memory, result

from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.tasks.example import Example

WORDS = ("rain", "fell", "in", "القاهرة", "yesterday", "and", "more", "is", "expected", "天气", "123", ".")
SUFFIX = "\nTitle:\n"


def long_texts(characters: list[int], tokenizer: str | None = None) -> list[dict[str, Any]]:
    """Encoding one example of each length, with a backbone's tokenizer or the tests' own."""
    made = _tokenizer(tokenizer) if tokenizer else tiny_tokenizer()
    encode(Example("warm", "up\n", "up"), made, Limits(2200, 64))
    found = []
    for count in characters:
        body = " ".join(random.Random(0).choices(WORDS, k=count // 4))[:count]
        example = Example("x", f"Sum.\n{body}{SUFFIX}", "rain", body=(5, 5 + len(body)))
        forget_peak()
        before, start = memory(), time.perf_counter()
        ids = encode(example, made, Limits(2200, 64))
        seconds = time.perf_counter() - start
        suffix = made(SUFFIX + "rain", add_special_tokens=False)["input_ids"]
        assert list(ids.input_ids[-len(suffix) - 1 : -1]) == suffix, "the suffix was cut"
        assert 2200 - 64 - 40 < len(ids) - ids.targets <= 2200 - 64
        size = f"{len(example.prompt):,} characters, {tokenizer or 'one token a character'}"
        found.append(result("encoding a prompt that is too long", size, seconds, "s", 1.0, tokens=len(ids)))
        found.append(result("its memory", size, memory("VmHWM") - before, "MB", 100.0))
    return found


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from grasp_lora.lm.packaged.backbones import resolve_backbone

    return AutoTokenizer.from_pretrained(resolve_backbone(name))
