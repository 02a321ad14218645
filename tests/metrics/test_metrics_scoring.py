"""The one entry point: names, order, what it asks for, what it says when a library is missing."""

import subprocess
import sys

import pytest

from grasp_lora.errors import GraspError
from grasp_lora.metrics import libraries
from grasp_lora.metrics.scoring import METRICS, score_predictions

for module in ("sacrebleu", "rouge_score", "regex"):
    pytest.importorskip(module)

PREDICTIONS = ["القاهرة", "", "في عام 1990"]
REFERENCES = [["القاهرة", "مصر"], ["الرياض"], ["عام 1990"]]


def test_scores_come_in_the_order_asked_for() -> None:
    names = ["em", "chrf", "rouge2", "f1", "rouge1", "bleu"]
    scores = score_predictions(PREDICTIONS, REFERENCES, "ar", names)
    assert list(scores) == [score.name for score in scores.values()] == names
    assert scores["em"].examples == (100, 0, 0)
    assert scores["em"].value == pytest.approx(100 / 3)
    assert scores["f1"].examples == pytest.approx((100, 0, 80))
    assert scores["rouge1"].examples == pytest.approx((100, 0, 80))
    assert scores["bleu"].examples is None


def test_the_language_chooses_and_a_name_overrides() -> None:
    def signatures(**settings: str) -> list[str]:
        scores = score_predictions(["你好"], [["你们好"]], "zh", ["rougeL", "bleu"], **settings)  # type: ignore[arg-type]
        return [score.signature for score in scores.values()]

    assert ["|tok:characters|" in signatures()[0], "|tok:zh|" in signatures()[1]] == [True, True]
    changed = signatures(rouge_tokens="words", bleu_tokens="char")
    assert ["|tok:words|" in changed[0], "|tok:char|" in changed[1]] == [True, True]


def test_no_metrics_no_scores() -> None:
    assert score_predictions(["a"], [["a"]], "en", []) == {}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "no predictions"),
        (["a", "b"], [["a"]], "2 predictions, but 1 lists"),
        (["a"], [[]], "example 0 needs a list of references"),
        (["a"], ["a"], "example 0 needs a list of references, got 'a'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    name: str, predictions: list[str], references: list[list[str]], message: str
) -> None:
    if name.startswith("bertscore"):
        message = "needs an encoder"
    with pytest.raises(GraspError, match=message):
        score_predictions(predictions, references, "en", [name])


def test_unknown_metrics_are_named_with_the_known_ones() -> None:
    with pytest.raises(GraspError, match=r"\['meteor'\].*rouge1.*bertscore_f1"):
        score_predictions(["a"], [["a"]], "en", ["bleu", "meteor"])


def test_a_missing_library_is_named_with_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(GraspError, match=r"'sacrebleu' is missing.*grasp-lora\[metrics\]"):
        score_predictions(["a"], [["a"]], "en", ["bleu"])
    with pytest.raises(GraspError, match="'no_such_module' is missing"):
        libraries.library("no_such_module")


def test_importing_the_metrics_imports_none_of_their_libraries() -> None:
    heavy = {"sacrebleu", "rouge_score", "nltk", "bert_score", "scipy", "regex", "transformers", "torch"}
    code = (
        "import sys, grasp_lora.metrics.scoring, grasp_lora.metrics.significance;"
        f"print(*sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
