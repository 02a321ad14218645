"""Shared n-grams: ROUGE (Lin, 2004), BLEU (Papineni et al., 2002) and chrF (Popović, 2015)."""

from collections.abc import Sequence
from importlib.metadata import version
from itertools import zip_longest
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.metrics.libraries import library
from grasp_lora.metrics.score import Score, check_lengths, mean_score
from grasp_lora.metrics.tokenizers import RougeTokenizer, Tokenization

__all__ = ["ROUGE", "bleu_metric", "chrf_metric", "corpus_score", "reference_streams", "rouge"]

ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenization: Tokenization,
    names: Sequence[str] = ROUGE,
) -> list[Score]:
    """ROUGE F-measures by rouge-score, without stemming; of several references the best one counts."""
    check_lengths(predictions, references)
    tokenizer = RougeTokenizer(tokenization)
    scorer = library("rouge_score.rouge_scorer").RougeScorer(list(names), tokenizer=tokenizer)
    found = [scorer.score_multi(answers, text) for answers, text in zip(references, predictions, strict=True)]
    signature = f"f|refs:best|agg:mean|case:lc|norm:nfkc|stem:no|tok:{tokenization}"
    used = ("rouge-score", "mecab-python3", "ipadic") if tokenization == "mecab" else ("rouge-score",)
    signature = "|".join([signature, *(f"{name}:{version(name)}" for name in used)])
    return [mean_score(name, [one[name].fmeasure for one in found], signature) for name in names]


def bleu_metric(tokenizer: str) -> Any:
    """sacreBLEU's BLEU: up to 4-grams, exponential smoothing, mixed case.

    Raises:
        GraspError: sacreBLEU has no such tokenizer, or lacks what it needs.
    """
    sacrebleu = library("sacrebleu")
    if tokenizer not in sacrebleu.BLEU.TOKENIZERS:
        known = ", ".join(sorted(sacrebleu.BLEU.TOKENIZERS))
        raise GraspError(f"BLEU tokenizer {tokenizer!r} is unknown. Use one of {known}.")
    try:
        return sacrebleu.BLEU(tokenize=tokenizer)
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise GraspError(f"BLEU tokenizer {tokenizer!r} cannot be used: {reason}") from error


def chrf_metric() -> Any:
    """sacreBLEU's chrF2 with its defaults: characters up to 6-grams, no words, beta 2."""
    return library("sacrebleu").CHRF()


def corpus_score(
    name: str, metric: Any, predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> Score:
    """A corpus-level score of a sacreBLEU metric, with sacreBLEU's own signature."""
    check_lengths(predictions, references)
    value = metric.corpus_score(list(predictions), reference_streams(references)).score
    return Score(name, min(float(value), 100.0), f"sacrebleu|{metric.get_signature()}")  # 100 + rounding


def reference_streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """sacreBLEU's layout: the first reference of every example, then the second, None where there is none."""
    return [list(stream) for stream in zip_longest(*references)]
