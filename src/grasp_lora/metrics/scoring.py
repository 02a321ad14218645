"""All metrics of a set of predictions, by name."""

from collections.abc import Sequence

from grasp_lora.errors import GraspError
from grasp_lora.metrics.bertscore import BERTSCORE, BertScorer
from grasp_lora.metrics.overlap import ROUGE, bleu_metric, chrf_metric, corpus_score, rouge
from grasp_lora.metrics.qa import QA, question_answering
from grasp_lora.metrics.score import Score
from grasp_lora.metrics.tokenizers import Tokenization, bleu_tokenizer, rouge_tokenization

__all__ = ["METRICS", "score_predictions"]

METRICS = (*ROUGE, "bleu", "chrf", *QA, *BERTSCORE)


def score_predictions(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    language: str,
    metrics: Sequence[str] = (*ROUGE, "bleu", "chrf"),
    *,
    rouge_tokens: Tokenization | None = None,
    bleu_tokens: str | None = None,
    bert: BertScorer | None = None,
) -> dict[str, Score]:
    """Score one text per example against its references.

    Args:
        predictions: The generated texts; empty ones are allowed.
        references: At least one per example.
        language: The language that the texts should be in, such as `ar` or `zh-CN`.
        metrics: Names out of `METRICS`.
        rouge_tokens: ROUGE's tokenization, instead of the language's.
        bleu_tokens: sacreBLEU's tokenizer for BLEU, instead of the language's.
        bert: The encoder that the three BERTScore metrics need.

    Returns:
        Name -> score, in the order of `metrics`.

    Raises:
        GraspError: An unknown name, a missing library or encoder, or inputs that do not fit together.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise GraspError(f"unknown metrics {unknown}. Known are {', '.join(METRICS)}.")
    found: list[Score] = []
    if chosen := [name for name in ROUGE if name in metrics]:
        found += rouge(predictions, references, rouge_tokens or rouge_tokenization(language), chosen)
    if chosen := [name for name in QA if name in metrics]:
        found += question_answering(predictions, references, language, chosen)
    if "bleu" in metrics:
        metric = bleu_metric(bleu_tokens or bleu_tokenizer(language))
        found.append(corpus_score("bleu", metric, predictions, references))
    if "chrf" in metrics:
        found.append(corpus_score("chrf", chrf_metric(), predictions, references))
    if not set(metrics).isdisjoint(BERTSCORE):
        if bert is None:
            raise GraspError("BERTScore needs an encoder: name one in the config, or leave the metric out")
        found += bert.score(predictions, references)
    by_name = {score.name: score for score in found}
    return {name: by_name[name] for name in metrics}
