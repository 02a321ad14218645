"""Dev and test loss of a method's adapter, greedy answers to test examples, and their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.generation import generate
from grasp_lora.lm.loss import evaluation_mode
from grasp_lora.lm.packaged.encoders import packaged_encoder
from grasp_lora.metrics.bertscore import BertScorer
from grasp_lora.metrics.scoring import METRICS, needs_encoder, score_predictions
from grasp_lora.ranks import shared
from grasp_lora.settings import Count, Settings
from grasp_lora.tasks.example import Example, examples_digest, groups_of, prompt_hash, shortened
from grasp_lora.workspace.inputs import Encoder, Model
from grasp_lora.workspace.records import CONFIG_FILE, Pruned
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.rows import Answer, Row
from grasp_lora.workspace.stage import Work

__all__ = ["EVALUATE", "BertScore", "Evaluation"]


class BertScore(Settings):
    """The encoder of BERTScore: a hub name, a folder or packaged:multilingual-e5-small (layer 9)."""

    encoder: str
    """A hub name, a folder, or packaged:multilingual-e5-small."""
    layer: Count
    """Whose outputs are compared, counted from 1."""
    rescale: bool = False
    """Rescale by the baseline that bert-score has of the encoder in the target's language."""


class Evaluation(Settings):
    """What is measured on the target's test set."""

    test_examples: Count | None = None
    """Test rows, the first ones; null takes all."""
    generate: Annotated[int, Field(ge=0)] | None
    """Test rows to answer; null is all, which is the default where metrics are named."""
    metrics: tuple[str, ...] | Literal["task"] = ()
    """Scores of the answers, by name; task: those that the task names."""
    bertscore: BertScore | None = None
    """The encoder that the three bertscore metrics need."""
    points: bool = False
    """Answer dev at every point of a grid, and score that too: the metrics over p."""
    deployment: bool = False
    """Measure size, load time and speed of each method's adapter, merged and not."""

    @model_validator(mode="before")
    @classmethod
    def _answers_to_score(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "generate" not in data:
            return {**data, "generate": None if data.get("metrics") else 4}
        return data

    @model_validator(mode="after")
    def _known_metrics(self) -> "Evaluation":
        named = () if self.metrics == "task" else self.metrics
        if unknown := [name for name in named if name not in METRICS]:
            raise ValueError(f"unknown metrics {unknown}; known are {', '.join(METRICS)}")
        if self.metrics and self.generate == 0:
            raise ValueError("metrics need answers: raise evaluation.generate, or set it to null for all")
        if self.bertscore is None and needs_encoder(named):
            raise ValueError("BERTScore needs an encoder: set evaluation.bertscore.encoder and .layer")
        return self


def evaluate(
    resources: Resources,
    folder: Path,
    *,
    model: Model,
    adapter: Path | None,
    dev: Sequence[Example] | None,
    test: Sequence[Example],
    sources: Mapping[str, tuple[Sequence[Example], Limits]],
    limits: Limits,
    answers: int | None,
    metrics: Sequence[str],
    encoder: Encoder | None,
    bill: Mapping[str, Mapping[str, Any]],
    behind: Mapping[str, Any],
    target: str,
    **about: Any,
) -> None:
    """Score one adapter (None: the bare backbone) as a `Row`.

    Args:
        dev: None: the adapter was trained on them.
        sources: Each source's dev rows, of what the target's training may have made it forget, and
            their limits.
        answers: Test examples to answer; None is all.
        metrics: Of the answers.
        encoder: BERTScore's, if a metric needs it.
        bill: What the stages cost that are this method's own.
        behind: What the adapter was made with, see `workspace.inputs.Behind`.
        target: The language.
        about: What else a row says of itself: method, seed, title, task, source, test set.

    Raises:
        GraspError: A loss is not finite, or a metric's library is missing.
    """
    backbone = resources.backbone(model)
    given = {"test": (test, limits), **({} if dev is None else {"dev": (dev, limits)})}
    given |= {f"of {name}": one for name, one in sources.items()}
    losses = {name: resources.loss(rows, backbone, own) for name, (rows, own) in given.items()}
    adapted = backbone.model if adapter is None else load_adapter(backbone.model, adapter, trainable=False)
    rows = sum(loss.count for loss in losses.values())
    with evaluation_mode(adapted), resources.shown.counting(rows, "row") as counter:
        found = {name: loss.per_example(adapted, counter.update).double() for name, loss in losses.items()}
    by_example, on_dev = found["test"], found.get("dev")
    if not (finite := by_example.isfinite()).all():
        raise GraspError(
            f"{about['method']}: the loss of test example '{test[int(finite.long().argmin())].id}' is not "
            "finite; another dtype than float16, or another method, may do"
        )
    shown = test[:answers]
    pruned = Pruned.of(adapter)
    with resources.shown.counting(len(shown), "answer") as counter:
        texts = shared(
            lambda part: generate(adapted, backbone.tokenizer, part, limits, counter.update), on=shown
        )
    references = [example.references or (example.target,) for example in shown]
    Row(
        **about,
        target=target,
        adapter=None if adapter is None else _below(_run_of(folder), adapter),
        p=pruned.p,
        threshold=pruned.threshold,
        pruned_share=pruned.share,
        test_rows=examples_digest(test),
        groups=groups_of(test),
        dev_groups=groups_of(dev or ()),
        dev_loss=None if on_dev is None else on_dev.mean().item(),
        dev_losses=[] if on_dev is None else on_dev.tolist(),
        source_losses={name: found[f"of {name}"].mean().item() for name in sources},
        test_losses=by_example.tolist(),
        scores=_scores(texts, references, target, metrics, encoder) if metrics else {},
        answers=[
            Answer(example.id, prompt_hash(example.prompt), text, right, shortened(example.prompt))
            for example, text, right in zip(shown, texts, references, strict=True)
        ],
        costs=bill,
        **behind,
    ).write(folder)


def _run_of(folder: Path) -> Path:
    """The run's folder, which has the config."""
    return next((above for above in folder.parents if (above / CONFIG_FILE).exists()), folder.parents[2])


def _below(root: Path, path: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _scores(
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    language: str,
    metrics: Sequence[str],
    encoder: Encoder | None,
) -> dict[str, Any]:
    """Metric -> the fields of `Score`."""
    bert = encoder and BertScorer(
        packaged_encoder(encoder.name),
        encoder.layer,
        name=encoder.name,
        baseline=language.split("-")[0] if encoder.rescale else None,
    )
    scores = score_predictions(answers, references, language, metrics, bert=bert)
    return {name: asdict(score) for name, score in scores.items()}


def _can_score(
    resources: Resources, *, metrics: Sequence[str], encoder: Encoder | None, target: str, **_: Any
) -> None:
    """Try the metrics on one answer: a missing library or encoder is said before any training."""
    key = f"metrics {metrics} {encoder} {target}"
    if metrics and key not in resources.checked:
        _scores(["a"], [["a"]], target, metrics, encoder)
        resources.checked.add(key)


def _passes(
    *,
    dev: Sequence[Example] | None,
    test: Sequence[Example],
    sources: Mapping[str, tuple[Sequence[Example], Limits]],
    **_: Any,
) -> int:
    return (
        len(dev or ()) + len(test) + sum(len(rows) for rows, _ in sources.values())
    )  # answers are not counted


EVALUATE = Work(evaluate, ready=_can_score, passes=_passes)
