"""Which script a text is written in: a cheap sign that a "translation" is still English."""

import unicodedata
from functools import lru_cache

__all__ = ["SCRIPTS", "script_share"]

SCRIPTS: dict[str, tuple[str, ...]] = {
    "ar": ("ARABIC",),
    "fa": ("ARABIC",),
    "hi": ("DEVANAGARI",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK", "IDEOGRAPHIC"),
    "ru": ("CYRILLIC",),
    "zh": ("CJK", "IDEOGRAPHIC"),
}
"""Language -> how the Unicode names of its letters begin. A language that is not here is written in Latin."""


@lru_cache(maxsize=1 << 16)
def _in_script(letter: str, language: str) -> bool:
    return unicodedata.name(letter, "").startswith(SCRIPTS.get(language.split("-")[0], ("LATIN",)))


def script_share(text: str, language: str) -> float:
    """The share of a text's letters that are in the language's script, 0..1; 0 where there is no letter."""
    letters = [character for character in text if character.isalpha()]
    return sum(_in_script(letter, language) for letter in letters) / max(1, len(letters))
