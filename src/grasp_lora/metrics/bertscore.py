"""BERTScore (Zhang et al., 2020): soft overlap of contextual token embeddings, computed by `bert-score`.

bert-score's own entry points load weights of any format, take every path that contains "t5" for a T5 model,
and fail on empty texts and on tokenizers without a length limit. So the encoder is loaded here and only the
computation is theirs.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.metrics.libraries import library
from grasp_lora.metrics.score import Score, check_lengths, mean_score

__all__ = ["BERTSCORE", "BertScorer"]

BERTSCORE = ("bertscore_precision", "bertscore_recall", "bertscore_f1")

_NO_LIMIT = 1_000_000  # an encoder without positions, and a tokenizer whose limit is transformers' 1e30


class BertScorer:
    """An encoder, loaded once, that scores any number of prediction sets.

    No idf weights. Without a baseline, values are raw similarities, and good ones lie close together near
    the top of the scale; with one, what unrelated texts score becomes 0. Compare them only under one
    signature.
    """

    def __init__(
        self,
        encoder: str,
        num_layers: int,
        *,
        name: str | None = None,
        baseline: str | None = None,
        max_length: int | None = None,
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        """Load the lowest `num_layers` layers of an encoder.

        Args:
            encoder: A folder or hub name with a configuration, a tokenizer and safetensors.
            num_layers: The layer whose output is compared, counted from 1.
            name: What the signature calls the encoder; by default `encoder`.
            baseline: The language whose baseline in bert-score rescales values: (x - b) / (1 - b), which may
                be below 0. Few encoders and languages have one; it is found by `name`.
            max_length: Longer texts are cut to so many tokens, special ones included; and never to more than
                the tokenizer allows or the encoder has positions for.
            batch_size: Texts per batch.
            device: Where the encoder runs.

        Raises:
            GraspError: No such encoder, not that many layers, an encoder-decoder, or no such baseline.
        """
        self._utils = library("bert_score.utils")
        self._baseline = (0.0, 0.0, 0.0)
        if baseline is not None:
            self._baseline = _baseline(name or encoder, baseline, num_layers)
        self._name = name or encoder
        self._layers = num_layers
        self._batch_size = batch_size
        self._device = device
        self._model, self._tokenizer = _load(encoder, num_layers)
        self._model.to(device)
        limit = _limit(self._model, self._tokenizer, max_length)
        self._tokenizer.model_max_length = limit
        self.signature = (
            f"refs:best|agg:mean|encoder:{self._name}|layer:{num_layers}|max-tokens:{limit}|idf:no|"
            f"rescaled:{baseline or 'no'}|bert-score:{version('bert-score')}|"
            f"transformers:{version('transformers')}"
        )

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[Score]:
        """`bertscore_precision`, `bertscore_recall` and `bertscore_f1`.

        Of several references the best counts, for each of the three by itself, as in bert-score. A text
        without tokens has no similarity to anything. Similarities are kept within 0..1, which rounding can
        leave.
        """
        check_lengths(predictions, references)
        pairs = [
            (index, text, answer)
            for index, (text, answers) in enumerate(zip(predictions, references, strict=True))
            for answer in answers
        ]
        full = {text for _, *both in pairs for text in both if self._has_tokens(text)}
        pairs = [pair for pair in pairs if pair[1] in full and pair[2] in full]
        best = [[0.0, 0.0, 0.0] for _ in predictions]
        for (index, _, _), values in zip(pairs, self._similarities(pairs), strict=True):
            best[index] = [max(old, min(new, 1.0)) for old, new in zip(best[index], values, strict=True)]
        columns = zip(BERTSCORE, self._baseline, zip(*best, strict=True), strict=True)
        return [
            mean_score(name, [(share - b) / (1 - b) for share in shares], self.signature)
            for name, b, shares in columns
        ]

    def _has_tokens(self, text: str) -> bool:
        return bool(text.strip() and self._tokenizer.encode(text.strip(), add_special_tokens=False))

    def _similarities(self, pairs: Sequence[tuple[int, str, str]]) -> list[list[float]]:
        """Precision, recall and F1 of each (example, prediction, reference), in 0..1."""
        if not pairs:
            return []
        weights: defaultdict[int | None, float] = defaultdict(lambda: 1.0)
        weights[self._tokenizer.sep_token_id] = weights[self._tokenizer.cls_token_id] = 0.0
        values = self._utils.bert_cos_score_idf(
            self._model,
            [answer for _, _, answer in pairs],
            [text for _, text, _ in pairs],
            self._tokenizer,
            weights,
            batch_size=self._batch_size,
            device=self._device,
        )
        found: list[list[float]] = values.tolist()
        return found


def _baseline(encoder: str, language: str, layer: int) -> tuple[float, float, float]:
    """Mean precision, recall and F1 of random pairs of sentences, from the files of bert-score."""
    files = Path(library("bert_score").__file__).parent / "rescale_baseline"
    for name in (encoder, encoder.rsplit("/")[-1]):
        if (path := files / language / f"{name}.tsv").is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows = {int(row["LAYER"]): row for row in csv.DictReader(file)}
            if layer in rows:
                return float(rows[layer]["P"]), float(rows[layer]["R"]), float(rows[layer]["F"])
    known = sorted(p.parent.name for p in files.glob(f"*/{encoder.rsplit('/')[-1]}.tsv"))
    raise GraspError(
        f"bert-score has no baseline of {encoder!r}, layer {layer}, for the language '{language}' (for that "
        f"encoder it knows {', '.join(known) or 'none'}): set evaluation.bertscore.rescale: false"
    )


def _load(encoder: str, num_layers: int) -> tuple[Any, Any]:
    transformers = library("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(encoder, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise GraspError(f"BERTScore encoder {encoder!r} has a decoder too: choose a model like BERT")
        if not 1 <= num_layers <= config.num_hidden_layers:
            raise GraspError(
                f"BERTScore encoder {encoder!r} has {config.num_hidden_layers} layers: num_layers must be "
                f"1 to {config.num_hidden_layers}, got {num_layers}"
            )
        config.num_hidden_layers = num_layers  # the layers above are never built
        with _errors_only(transformers.logging):  # they are reported as unexpected weights
            model, loading = transformers.AutoModel.from_pretrained(
                encoder,
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise GraspError(f"BERTScore encoder {encoder!r} cannot be loaded: {error}") from error
    # Many encoders come without a pooler, which is above the last layer.
    if missing := sorted(name for name in loading["missing_keys"] if "pooler" not in name):
        raise GraspError(f"BERTScore encoder {encoder!r} lacks the weights {missing[:3]}: is it an encoder?")
    return model.float().eval(), tokenizer


@contextmanager
def _errors_only(logging: Any) -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _limit(model: Any, tokenizer: Any, wanted: int | None) -> int:
    """Tokens of a text: at most the wanted ones, the tokenizer's limit, and the encoder's positions."""
    limits = [tokenizer.model_max_length, wanted or _NO_LIMIT]
    if positions := getattr(model.config, "max_position_embeddings", None):
        # RoBERTa's positions start after the padding id, so it has fewer than its table has rows.
        padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
        limits.append(positions - (0 if padding is None else padding + 1))
    return int(min(limits))
