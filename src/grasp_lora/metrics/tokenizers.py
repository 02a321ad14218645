"""What counts as one token, by language: for ROUGE, for BLEU, and for question answering.

The language is a code such as `ar`, `zh-CN`, `zho_Hans` or `jpn`; only its first part counts. Scripts that
put no spaces between words are split into characters. The choice follows from the language and can always
be overridden by name.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, get_args

from grasp_lora.errors import GraspError
from grasp_lora.metrics.libraries import library

__all__ = [
    "RougeTokenizer",
    "Tokenization",
    "base_language",
    "bleu_tokenizer",
    "rouge_tokenization",
    "split_unspaced",
]

Tokenization = Literal["words", "characters", "mecab"]
"""`words`: runs of letters, marks and digits. `characters`: the same, but each letter of a script without
spaces is a token of its own. `mecab`: MeCab's words with the IPA dictionary, those with a letter or digit."""

# ISO 639-3 codes of the languages that are not treated like any other, as FLORES and others write them.
_ALIASES = {
    "eng": "en", "ara": "ar", "arb": "ar", "deu": "de", "spa": "es", "hin": "hi", "vie": "vi",
    "zho": "zh", "cmn": "zh", "jpn": "ja", "tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bod": "bo",
}  # fmt: skip
_UNSPACED = frozenset({"zh", "yue", "wuu", "th", "lo", "km", "my", "bo"})  # and ja, which has MeCab
_BLEU = {"en": "13a", "zh": "zh", "yue": "zh", "wuu": "zh", "ja": "ja-mecab"}
_UNSPACED_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")


def base_language(language: str) -> str:
    """`zh-CN`, `zh_Hans`, `zho_Hans` and `ZH` are all `zh`.

    Raises:
        GraspError: Not a code: a name such as `chinese` would be taken for a language like any other.
    """
    code = re.fullmatch(r"([a-z]{2,3})([-_][a-z0-9]+)*", language.strip().lower())
    if code is None:
        raise GraspError(
            f"metrics: {language!r} is no code of a language. Use one such as 'ar', 'zh' or 'pt-BR'."
        )
    return _ALIASES.get(code[1], code[1])


def rouge_tokenization(language: str) -> Tokenization:
    """How ROUGE splits this language: Chinese, Thai and the like into characters, Japanese by MeCab."""
    base = base_language(language)
    return "mecab" if base == "ja" else "characters" if base in _UNSPACED else "words"


def bleu_tokenizer(language: str) -> str:
    """sacreBLEU's tokenizer: `13a` (en), `zh`, `ja-mecab`, `char` (Thai and the like), else `intl`."""
    base = base_language(language)
    return _BLEU.get(base, "char" if base in _UNSPACED else "intl")


class RougeTokenizer:
    """What `rouge_score.rouge_scorer.RougeScorer` takes as its tokenizer.

    rouge-score's own keeps only a-z and 0-9, so that Arabic or Chinese text has no tokens at all. Here text
    is normalized (NFKC), lowercased, and punctuation is dropped; `words` agrees with it on ASCII text.
    """

    def __init__(self, tokenization: Tokenization) -> None:
        """Raises GraspError for an unknown name, or when MeCab is asked for and missing."""
        if tokenization not in get_args(Tokenization):
            known = ", ".join(get_args(Tokenization))
            raise GraspError(f"ROUGE tokenization {tokenization!r} is unknown. Use one of {known}.")
        self._split: Callable[[str], list[str]] = {
            "words": lambda text: _patterns()["word"].findall(text),
            "characters": lambda text: _patterns()["character"].findall(text),
            "mecab": _mecab_words,
        }[tokenization]
        if tokenization == "mecab":
            _mecab()

    def tokenize(self, text: str) -> list[str]:
        """The tokens of `text`, in order."""
        return self._split(unicodedata.normalize("NFKC", text).lower())


def split_unspaced(text: str) -> list[str]:
    """Split at white space, and put each letter of a script without spaces on its own (with its marks)."""
    found: list[str] = _patterns()["spaced"].findall(text)
    return found


@cache
def _patterns() -> dict[str, Any]:
    """Compiled by `regex`: `re` knows no scripts, and breaks Hindi and pointed Arabic words at every mark."""
    regex = library("regex")
    lone = "".join(rf"\p{{Script_Extensions={script}}}" for script in _UNSPACED_SCRIPTS)
    letters = r"\p{L}\p{M}\p{N}\u200c\u200d"  # with the joiners that Persian and Hindi write inside words
    one = rf"[{lone}]\p{{M}}*"
    return {
        "word": regex.compile(rf"[{letters}]+"),
        "character": regex.compile(rf"(?V1)[[{lone}]&&[{letters}]]\p{{M}}*|[[{letters}]--[{lone}]]+"),
        "spaced": regex.compile(rf"(?V1){one}|[[\S]--[{lone}]]+"),
    }


@cache
def _mecab() -> Callable[[str], str]:
    tokenizer = library("sacrebleu.tokenizers.tokenizer_ja_mecab").TokenizerJaMecab
    try:
        made: Callable[[str], str] = tokenizer()
    except RuntimeError as error:  # its MeCab or dictionary is not installed
        raise GraspError("Japanese needs MeCab. Install it: pip install 'grasp-lora[metrics]'") from error
    return made


def _mecab_words(text: str) -> list[str]:
    words = _mecab()(" ".join(text.split())).split()
    return [word for word in words if _patterns()["word"].search(word)]
