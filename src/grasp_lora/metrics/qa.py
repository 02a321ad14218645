"""Exact match and token F1 of short answers, as MLQA's evaluation defines them (Lewis et al., 2020).

An answer is lowercased, loses its punctuation, then its articles, and is split into tokens:

| language | articles, each replaced by a space | tokens |
|---|---|---|
| en, es, de, vi | the language's list, as whole words | between white space |
| ar | the letters ال wherever they stand, inside words too | between white space |
| hi | none | between white space |
| zh | none | each of U+4E00 to U+9FA5 alone, the rest between white space |
| any other | none | each letter of a script without spaces alone, the rest between white space |

The last row is ours, for languages that MLQA does not have (Japanese and Thai among them). Elsewhere the odd
corners are MLQA's too: where prediction and reference both come down to nothing ("the", "?"), they match
exactly and F1 is 0.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

from grasp_lora.metrics.score import Score, check_lengths, mean_score
from grasp_lora.metrics.tokenizers import base_language, split_unspaced

__all__ = ["QA", "answer_tokens", "exact_match", "question_answering", "token_f1"]

QA = ("em", "f1")

_ARTICLES = {
    "en": "a|an|the",
    "es": "un|una|unos|unas|el|la|los|las",
    "vi": "của|là|cái|chiếc|những",
    "de": "ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des",
}
# The official Arabic pattern has a second branch, which asks for a start of text after two letters: it never
# matches, and this is what is left.
_ARABIC_ARTICLE = "ال"
_MLQA = frozenset({*_ARTICLES, "ar", "hi", "zh"})


def answer_tokens(text: str, language: str) -> list[str]:
    """The tokens of a normalized answer; joined by spaces they are what exact match compares."""
    base = base_language(language)
    text = "".join(letter for letter in text.lower() if not _is_punctuation(letter))
    if base in _ARTICLES:
        text = re.sub(rf"\b({_ARTICLES[base]})\b", " ", text)
    elif base == "ar":
        text = text.replace(_ARABIC_ARTICLE, " ")
    return _splitter(base)(text)


def exact_match(prediction: str, reference: str, language: str) -> float:
    """1.0 or 0.0."""
    return float(answer_tokens(prediction, language) == answer_tokens(reference, language))


def token_f1(prediction: str, reference: str, language: str) -> float:
    """Harmonic mean of precision and recall over tokens, counted with repetition; 0..1."""
    given, wanted = answer_tokens(prediction, language), answer_tokens(reference, language)
    same = (Counter(given) & Counter(wanted)).total()
    if same == 0:
        return 0.0
    precision, recall = same / len(given), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def question_answering(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    language: str,
    names: Sequence[str] = QA,
) -> list[Score]:
    """`em` and `f1`, each with the best of an example's references."""
    check_lengths(predictions, references)
    base = base_language(language)
    rules = f"mlqa-{base}" if base in _MLQA else "unspaced-letters-alone"
    signature = f"refs:best|agg:mean|norm:{rules}|unicode:{unicodedata.unidata_version}"
    measures: dict[str, Callable[[str, str, str], float]] = {"em": exact_match, "f1": token_f1}
    pairs = list(zip(predictions, references, strict=True))
    return [
        mean_score(
            name,
            [max(measures[name](text, answer, base) for answer in answers) for text, answers in pairs],
            signature,
        )
        for name in names
    ]


@cache
def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def _splitter(base: str) -> Callable[[str], list[str]]:
    if base == "zh":
        return lambda text: re.sub("([\u4e00-\u9fa5])", r" \1 ", text).split()
    return str.split if base in _MLQA else split_unspaced
