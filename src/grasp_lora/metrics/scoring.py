"""All metrics: what is computed together is one entry of `FAMILIES`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.metrics.bertscore import BERTSCORE, BertScorer
from grasp_lora.metrics.overlap import ROUGE, bleu_metric, chrf_metric, corpus_score, rouge
from grasp_lora.metrics.qa import QA, question_answering
from grasp_lora.metrics.score import Score
from grasp_lora.metrics.tokenizers import Tokenization, bleu_tokenizer, rouge_tokenization

__all__ = ["FAMILIES", "METRICS", "Family", "Texts", "needs_encoder", "of_corpus", "score_predictions"]


@dataclass(frozen=True, slots=True)
class Texts:
    """What is scored, and how.

    Attributes:
        predictions: The generated texts; empty ones are allowed.
        references: At least one per example.
        language: The language that the texts should be in, such as `ar` or `zh-CN`.
        rouge_tokens: ROUGE's tokenization, instead of the language's.
        bleu_tokens: sacreBLEU's tokenizer for BLEU, instead of the language's.
        bert: BERTScore's encoder.
    """

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]
    language: str
    rouge_tokens: Tokenization | None = None
    bleu_tokens: str | None = None
    bert: BertScorer | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics that are computed together.

    Attributes:
        names: As configs and tables name them.
        score: The wanted ones of some texts.
        corpus: For a metric that has no value per example: sacreBLEU's measure, whose counts a significance
            test resamples; given the language and a tokenizer instead of its own.
        encoder: Whether they need `Texts.bert`.
    """

    names: tuple[str, ...]
    score: Callable[[Texts, Sequence[str]], Sequence[Score]]
    corpus: Callable[[str, str | None], Any] | None = None
    encoder: bool = False


def _corpus(name: str, corpus: Callable[[str, str | None], Any]) -> Family:
    def score(texts: Texts, wanted: Sequence[str]) -> list[Score]:
        measure = corpus(texts.language, texts.bleu_tokens)
        return [corpus_score(name, measure, texts.predictions, texts.references)]

    return Family((name,), score, corpus)


def _rouge(texts: Texts, wanted: Sequence[str]) -> list[Score]:
    tokens = texts.rouge_tokens or rouge_tokenization(texts.language)
    return rouge(texts.predictions, texts.references, tokens, wanted)


def _bertscore(texts: Texts, wanted: Sequence[str]) -> list[Score]:
    if texts.bert is None:
        raise GraspError("BERTScore needs an encoder: name one in the config, or leave the metric out")
    return texts.bert.score(texts.predictions, texts.references)


FAMILIES = (
    Family(ROUGE, _rouge),
    _corpus("bleu", lambda language, tokens: bleu_metric(tokens or bleu_tokenizer(language))),
    _corpus("chrf", lambda language, tokens: chrf_metric()),
    Family(QA, lambda t, wanted: question_answering(t.predictions, t.references, t.language, wanted)),
    Family(BERTSCORE, _bertscore, encoder=True),
)
METRICS = tuple(name for family in FAMILIES for name in family.names)


def needs_encoder(metrics: Sequence[str]) -> bool:
    """Whether one of the metrics is computed with an encoder."""
    return any(family.encoder and not set(family.names).isdisjoint(metrics) for family in FAMILIES)


def of_corpus(metric: str) -> Callable[[str, str | None], Any] | None:
    """The measure of a corpus metric, see `Family.corpus`; None for means over examples."""
    return next((family.corpus for family in FAMILIES if metric in family.names), None)


def score_predictions(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    language: str,
    metrics: Sequence[str] = (*ROUGE, "bleu", "chrf"),
    **how: Any,
) -> dict[str, Score]:
    """Score one text per example against its references.

    Args:
        metrics: Names out of `METRICS`.
        predictions, references, language, how: See `Texts`.

    Returns:
        Name -> score, in the order of `metrics`.

    Raises:
        GraspError: An unknown name, a missing library or encoder, or inputs that do not fit together.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise GraspError(f"unknown metrics {unknown}. Known are {', '.join(METRICS)}.")
    texts = Texts(predictions, references, language, **how)
    found: dict[str, Score] = {}
    for family in FAMILIES:
        if wanted := [name for name in family.names if name in metrics]:
            found |= {score.name: score for score in family.score(texts, wanted)}
    return {name: found[name] for name in metrics}
