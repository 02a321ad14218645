"""Stage 5: dev and test loss of a method's adapter, and greedy answers to a few test examples."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grasp_lora.cost import PEAKS, SUMMED
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.generation import generate
from grasp_lora.lm.loss import evaluation_mode
from grasp_lora.lm.packaged.encoders import packaged_encoder
from grasp_lora.metrics.bertscore import BertScorer
from grasp_lora.metrics.scoring import score_predictions
from grasp_lora.stages.inputs import Inputs, adapter_digest, fingerprint, flat, folder_digest
from grasp_lora.stages.run_directory import RunDirectory, write_json
from grasp_lora.tasks.example import prompt_hash

__all__ = ["evaluate", "score_answers"]


def evaluate(
    inputs: Inputs,
    run: RunDirectory,
    method: str,
    adapter: Path | None,
    seed: int,
    made_by: Sequence[str] = (),
) -> Path:
    """Score one adapter (None: the bare backbone) into `eval/METHOD/seedN`.

    Leaves `scores.json` (dev and test loss: mean over examples of the mean NLL per target token, in nats,
    and each test example's; the metrics of the answers, 0 to 100, each with its signature),
    `predictions.jsonl`, and `cost.json`: what the stages `made_by` took, and what they took together.
    """
    config, bert = inputs.config, inputs.config.evaluation.bertscore
    dev = inputs.examples(config.target, "dev", config.target.dev_examples)
    test = inputs.examples(config.target, "test", config.evaluation.test_examples)

    def work(folder: Path) -> None:
        backbone = inputs.backbone()
        dev_loss, test_loss = inputs.loss(dev, backbone), inputs.loss(test, backbone)
        model = backbone.model if adapter is None else load_adapter(backbone.model, adapter, trainable=False)
        with evaluation_mode(model):
            by_example = test_loss.per_example(model).double()
        if not (finite := by_example.isfinite()).all():
            raise GraspError(
                f"{method}: the loss of test example '{test[int(finite.long().argmin())].id}' is not finite; "
                "another dtype than float16, or another method, may do"
            )
        scores: dict[str, Any] = {
            "dev_loss": dev_loss(model),
            "test_loss": by_example.mean().item(),
            "test_losses": by_example.tolist(),
        }
        shown = test[: config.evaluation.generate]
        answers = generate(
            model,
            backbone.tokenizer,
            shown,
            max_length=config.max_length,
            max_new_tokens=inputs.max_new_tokens,
            token_budget=config.token_budget,
        )
        with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
            for example, answer in zip(shown, answers, strict=True):
                row = {
                    "id": example.id,
                    "prompt_hash": prompt_hash(example.prompt),
                    "prediction": answer,
                    "references": example.references or [example.target],
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if inputs.metrics:
            references = [example.references or (example.target,) for example in shown]
            scores["metrics"] = score_answers(inputs, answers, references)
        write_json(folder / "scores.json", scores)
        write_json(folder / "cost.json", _costs(run, made_by))

    dependencies = {
        **inputs.model_inputs(),
        "adapter": adapter and adapter_digest(adapter),
        **{f"made_by.{stage}": run.made(stage) for stage in made_by},
        **flat("evaluation", config.evaluation.model_dump(exclude={"test_examples", "deployment"})),
        "evaluation.metrics": inputs.metrics,
        "evaluation.bertscore.files": bert and folder_digest(bert.encoder),
        "language": config.target.language,
        "data.dev": fingerprint(dev),
        "data.test": fingerprint(test),
    }
    return run.stage(f"eval/{method}/seed{seed}", dependencies, work)


def _costs(run: RunDirectory, stages: Sequence[str]) -> dict[str, Any]:
    """Seconds and passes add up over stages that run one after the other; memory peaks do not."""
    by_stage = {stage: run.cost(stage) for stage in stages}
    totals = {key: sum(cost[key] for cost in by_stage.values()) for key in SUMMED}
    peaks = {key: max((cost[key] for cost in by_stage.values()), default=0) for key in PEAKS}
    return {"total": {**totals, **peaks}, "stages": by_stage}


def score_answers(
    inputs: Inputs, answers: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The config's metrics of some answers: name -> the fields of `Score`.

    Raises:
        GraspError: A metric's library or encoder is missing.
    """
    wanted = inputs.config.evaluation
    bert = None
    if wanted.bertscore is not None:
        encoder, layer = wanted.bertscore.encoder, wanted.bertscore.layer
        bert = BertScorer(packaged_encoder(encoder), layer, name=encoder)
    language = inputs.config.target.language
    scores = score_predictions(answers, references, language, inputs.metrics, bert=bert)
    return {name: asdict(score) for name, score in scores.items()}
