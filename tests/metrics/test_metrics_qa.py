"""Exact match and F1 against MLQA's own script, and by hand where it is silent."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_lora.errors import GraspError
from grasp_lora.metrics.qa import answer_tokens, exact_match, question_answering, token_f1

pytest.importorskip("regex")

# Made by the official evaluation script: see make_metric_numbers.py beside the file.
NUMBERS = Path(__file__).parent / "reference" / "metric_numbers.json"
ANSWERS = json.loads(NUMBERS.read_text(encoding="utf-8"))["answers"]

LANGUAGES = st.sampled_from(["en", "es", "hi", "vi", "de", "ar", "zh", "ja", "th", "ru"])
ANY_TEXT = st.text(st.sampled_from("ab the 7.،الق中京の。はहिกำß \n"), max_size=10)


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: f"{case['language']}-{case['prediction']}")
def test_official_numbers(case: dict[str, Any]) -> None:
    language, prediction = case["language"], case["prediction"]
    assert " ".join(answer_tokens(prediction, language)) == case["normalized"]
    scores = question_answering([prediction], [case["references"]], language)
    assert [score.value for score in scores] == pytest.approx([case["em"], case["f1"]], abs=1e-12)


def test_arabic_loses_its_article_letters_inside_words_too() -> None:
    assert answer_tokens("مجال العمل", "ar") == ["مج", "عمل"]
    assert token_f1("مجال العمل", "العمل", "ar") == pytest.approx(2 / 3)


def test_what_comes_down_to_nothing_matches_exactly_with_an_f1_of_zero() -> None:
    assert exact_match("the", "a", "en") == 1
    assert token_f1("the", "a", "en") == 0


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [
        ("ja", "東京（とうきょう）は Tokyo", ["東", "京", "と", "う", "き", "ょ", "う", "は", "tokyo"]),
        ("th", "กรุงเทพ 7", ["ก", "รุ", "ง", "เ", "ท", "พ", "7"]),
        ("ru", "Санкт-Петербург, 1703!", ["санктпетербург", "1703"]),
        ("fr", "L'école des arts", ["lécole", "des", "arts"]),
        ("zho_Hans", "北京。Linux", ["北", "京", "linux"]),
    ],
)
def test_other_languages_follow_the_documented_rule(language: str, text: str, wanted: list[str]) -> None:
    assert answer_tokens(text, language) == wanted


@given(ANY_TEXT, ANY_TEXT, LANGUAGES)
def test_bounded_symmetric_and_exact_for_copies(one: str, other: str, language: str) -> None:
    assert exact_match(one, one, language) == 1
    assert token_f1(one, one, language) == float(bool(answer_tokens(one, language)))
    f1 = token_f1(one, other, language)
    assert 0 <= f1 <= 1
    assert f1 == token_f1(other, one, language)
    assert exact_match(one, other, language) in (0, 1)


@given(st.lists(st.tuples(ANY_TEXT, st.lists(ANY_TEXT, min_size=1, max_size=3)), min_size=1), LANGUAGES)
def test_order_of_examples_and_of_references_does_not_matter(rows: Any, language: str) -> None:
    def values(rows: Any) -> list[float]:
        found = question_answering([row[0] for row in rows], [row[1] for row in rows], language)
        return [score.value for score in found]

    assert values(rows) == values([(text, answers[::-1]) for text, answers in rows[::-1]])


def test_signatures_name_the_rule() -> None:
    def signature(language: str) -> str:
        return question_answering(["x"], [["x"]], language)[0].signature

    assert "norm:mlqa-ar|" in signature("ar")
    assert signature("zh-CN") == signature("zho_Hans")
    assert "norm:unspaced-letters-alone|" in signature("ja")


def test_a_languages_name_is_refused() -> None:
    """Else `english` would be a language without articles."""
    with pytest.raises(GraspError, match="'english' is no code of a language"):
        question_answering(["the fox"], [["fox"]], "english")
