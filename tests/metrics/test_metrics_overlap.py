"""ROUGE, BLEU and chrF against the official commands, and what must hold for any text."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_lora.errors import GraspError
from grasp_lora.metrics.overlap import ROUGE, bleu_metric, chrf_metric, corpus_score, rouge
from grasp_lora.metrics.score import Score
from grasp_lora.metrics.tokenizers import (
    RougeTokenizer,
    base_language,
    bleu_tokenizer,
    rouge_tokenization,
    split_unspaced,
)

pytest.importorskip("sacrebleu")
official_tokenize = pytest.importorskip("rouge_score.tokenize").tokenize

REFERENCE = Path(__file__).parent / "reference"
TEXTS = json.loads((REFERENCE / "texts.json").read_text(encoding="utf-8"))
# The commands that made the numbers stand beside them; make_metric_numbers.py runs them.
NUMBERS = json.loads((REFERENCE / "metric_numbers.json").read_text(encoding="utf-8"))
LANGUAGES = sorted(TEXTS)

ANY_TEXT = st.text(st.sampled_from("ab7 .,،قالَ中京のテ한हिन्दीกำ🙂\n\u200d\u00e9é٣"), max_size=12)


def sides(language: str) -> tuple[list[str], list[list[str]]]:
    texts = TEXTS[language]
    return texts["predictions"], [[reference] for reference in texts["references"]]


def corpus(name: str, language: str, predictions: list[str], references: list[list[str]]) -> Score:
    metric = bleu_metric(bleu_tokenizer(language)) if name == "bleu" else chrf_metric()
    return corpus_score(name, metric, predictions, references)


@pytest.mark.parametrize("language", LANGUAGES)
def test_rouge_is_that_of_the_official_command(language: str) -> None:
    predictions, references = sides(language)
    for score in rouge(predictions, references, rouge_tokenization(language)):
        wanted = NUMBERS[language][score.name]
        assert score.examples == pytest.approx(wanted, abs=1e-4)
        assert score.value == pytest.approx(sum(wanted) / len(wanted), abs=1e-4)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_bleu_and_chrf_are_those_of_the_official_command(language: str, name: str) -> None:
    score = corpus(name, language, *sides(language))
    assert score.value == pytest.approx(NUMBERS[language][name], abs=1e-7)
    assert score.examples is None


@pytest.mark.parametrize(
    ("language", "rouge_wanted", "bleu_wanted"),
    [
        ("ar", "words", "intl"),
        ("arb_Arab", "words", "intl"),
        ("en", "words", "13a"),
        ("de-CH", "words", "intl"),
        ("zh", "characters", "zh"),
        ("zh-CN", "characters", "zh"),
        ("zho_Hant", "characters", "zh"),
        ("JA", "mecab", "ja-mecab"),
        ("jpn", "mecab", "ja-mecab"),
        ("th", "characters", "char"),
        ("ko", "words", "intl"),
    ],
)
def test_tokenization_follows_from_the_language(language: str, rouge_wanted: str, bleu_wanted: str) -> None:
    assert (rouge_tokenization(language), bleu_tokenizer(language)) == (rouge_wanted, bleu_wanted)


@pytest.mark.parametrize("language", [" ", "english", "chinese_simplified", "z", "zh-", "zh CN", "中文"])
def test_a_language_that_is_no_code_is_refused(language: str) -> None:
    for derive in (base_language, rouge_tokenization, bleu_tokenizer):
        with pytest.raises(GraspError, match=f"{language!r} is no code of a language. Use one such as 'ar'"):
            derive(language)


@pytest.mark.parametrize(
    ("tokenization", "text", "wanted"),
    [
        ("words", "قالَ: «السلام» ٢٠٢٤، ok?", ["قالَ", "السلام", "٢٠٢٤", "ok"]),
        ("words", "हिन्दी में है।", ["हिन्दी", "में", "है"]),
        ("words", "می\u200cخواهم", ["می\u200cخواهم"]),
        ("words", "한국어 텍스트", ["한국어", "텍스트"]),
        ("characters", "你好，world ２０２４！𠀀", ["你", "好", "world", "2024", "𠀀"]),
        ("characters", "ที่นี่", ["ที่", "นี่"]),
        ("mecab", "私は\nPythonを書く。", ["私", "は", "python", "を", "書く"]),
        ("mecab", "！", []),
        ("characters", "", []),
    ],
)
def test_tokens(tokenization: Any, text: str, wanted: list[str]) -> None:
    assert RougeTokenizer(tokenization).tokenize(text) == wanted


def test_letters_without_spaces_stand_alone_and_nothing_else_is_split() -> None:
    assert split_unspaced("東京 Don't サーバーx，ที่ ок") == [
        "東", "京", "Don't", "サ", "ー", "バ", "ー", "x，", "ที่", "ок",
    ]  # fmt: skip


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_text_are_rouge_scores_own(text: str) -> None:
    assert RougeTokenizer("words").tokenize(text) == official_tokenize(text, None)


@pytest.mark.parametrize("tokenization", ["words", "characters", "mecab"])
@given(data=st.data())
def test_rouge_is_bounded_exact_for_copies_and_blind_to_order(data: st.DataObject, tokenization: Any) -> None:
    pairs = data.draw(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=4))
    scores = rouge([a for a, _ in pairs], [[b] for _, b in pairs], tokenization)
    assert all(0 <= score.value <= 100 for score in scores)
    turned = pairs[::-1]
    again = rouge([a for a, _ in turned], [[b] for _, b in turned], tokenization)
    assert [score.value for score in again] == [score.value for score in scores]
    for text, _ in pairs:
        for copy in rouge([text], [["другое", text]], tokenization):
            needs = 2 if copy.name == "rouge2" else 1
            assert copy.value == (100 if len(RougeTokenizer(tokenization).tokenize(text)) >= needs else 0)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_corpus_scores_are_bounded_exact_for_copies_and_blind_to_order(language: str, name: str) -> None:
    predictions, references = sides(language)
    copies = [answers[0] for answers in references]
    assert corpus(name, language, copies, references).value == 100
    order = random.Random(1).sample(range(len(copies)), len(copies))
    turned = corpus(name, language, [predictions[i] for i in order], [references[i] for i in order])
    assert turned == corpus(name, language, predictions, references)
    assert corpus(name, language, [""] * len(copies), references).value == 0
    assert 0 <= corpus(name, language, ["字"] * len(copies), references).value < 5


@given(st.lists(st.tuples(ANY_TEXT, st.lists(ANY_TEXT, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_any_text_and_any_number_of_references_can_be_scored(rows: list[tuple[str, list[str]]]) -> None:
    predictions, references = [text for text, _ in rows], [answers for _, answers in rows]
    for name in ("bleu", "chrf"):
        for language in ("ar", "zh"):
            assert 0 <= corpus(name, language, predictions, references).value <= 100


def test_the_best_reference_counts() -> None:
    apart = [rouge(["a b c"], [[text]], "words") for text in ("a x", "a b c d")]
    together = rouge(["a b c"], [["a x", "a b c d"]], "words")
    for one, other, both in zip(*apart, together, strict=True):
        assert both.value == max(one.value, other.value) > min(one.value, other.value)


def test_references_beyond_the_first_help_bleu_where_they_exist() -> None:
    predictions = ["the cat sat on the mat", "a dog ran in the park"]
    one = corpus("bleu", "en", predictions, [["x"], ["a dog ran in the park"]])
    two = corpus("bleu", "en", predictions, [["x", "the cat sat on the mat"], ["a dog ran in the park"]])
    assert two.value == 100 > one.value
    assert "nrefs:var" in two.signature
    assert "nrefs:1" in one.signature


def test_signatures_say_how_the_number_was_made() -> None:
    found = {
        language: (
            rouge(*sides(language), rouge_tokenization(language), ROUGE[:1])[0].signature,
            corpus("bleu", language, *sides(language)).signature,
        )
        for language in LANGUAGES
    }
    assert "|tok:words|rouge-score:0." in found["ar"][0]
    assert "|tok:intl|" in found["ar"][1]
    assert "|tok:characters|" in found["zh"][0]
    assert "|tok:zh|" in found["zh"][1]
    assert "|tok:mecab|" in found["ja"][0]
    assert "|ipadic:" in found["ja"][0]
    assert "|tok:ja-mecab-" in found["ja"][1]
    assert found["en"][1].startswith("sacrebleu|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_unknown_tokenizers_are_named_with_the_known_ones() -> None:
    with pytest.raises(GraspError, match=r"'int1' is unknown.*intl"):
        bleu_metric("int1")
    with pytest.raises(GraspError, match=r"'letters' is unknown.*words, characters, mecab"):
        RougeTokenizer("letters")  # type: ignore[arg-type]


def test_a_tokenizer_whose_library_is_missing_says_so() -> None:
    with pytest.raises(GraspError, match=r"'ko-mecab' cannot be used.*sacrebleu\[ko\]"):
        bleu_metric("ko-mecab")
