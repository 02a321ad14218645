"""The stages that score adapters, on the target's dev and test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.methods.method import Adapter, Method
from grasp_lora.methods.start import Start
from grasp_lora.metrics.scoring import METRICS as SCORES
from grasp_lora.metrics.scoring import needs_encoder
from grasp_lora.ratios import PruneRatio
from grasp_lora.stages.choose import CHOOSE
from grasp_lora.stages.deploy import DEPLOY
from grasp_lora.stages.evaluate import EVALUATE
from grasp_lora.stages.train import TRAIN
from grasp_lora.workspace.inputs import Behind, Bill, Encoder
from grasp_lora.workspace.records import DRAWS_FOLDER
from grasp_lora.workspace.stage import Stage, behind

__all__ = ["best_on_dev", "deployed", "dev_scores", "evaluated", "scoring"]

EXAMPLES_DEPLOYED = 4  # rates hardly differ between prompts; each is answered several times, in two forms


def evaluated(x: Start, method: Method, seed: int, made: Adapter, repeated: str, test_set: str = "") -> Stage:
    """An adapter of a method scored, on the task's test rows or on a further test set."""
    config = x.config
    given = {
        "adapter": made,
        **scoring(x, f"tests/{test_set}" if test_set else "test"),
        **({} if method.dev else {"dev": None}),
        "bill": Bill(method.paid(made)),
        "all_costs": Bill(tuple(stage for stage in behind(made) if stage.name not in _source_names(x, seed))),
        "behind": Behind(made, x.task, config.target.language),
        "method": method.name,
        "title": method.title,
        "is_point": method.is_point,
        "control_of": method.control_of,
        "refit_of": method.refit_of,
        **({"corner": method.corner} if method.corner and config.adapters == 2 else {}),
        "exhaustive": method.dev
        and any(stage.work is CHOOSE and _of_ratios(stage) and _trains(stage) for stage in behind(made)),
        "seed": seed,
        "draw": x.draw,
        "test_set": test_set,
        "repeated": repeated,
    }
    folder = f"tests/{test_set}" if test_set else "eval"
    place = f"{x.drawn}/" if x.draw else ""
    return Stage(f"{place}{folder}/{method.name}/seed{seed}", EVALUATE, given)


def scoring(x: Start, split: str) -> dict[str, Any]:
    """What every evaluation is given, on the target's dev rows and on one more split."""
    config, metrics, bert = x.config, _metrics(x), x.config.evaluation.bertscore
    return {
        "model": x.model,
        "dev": x.rows(config.target, "dev"),
        "test": x.rows(config.target, split),
        "sources": {
            side.label: (rows, x.limits_of(side))
            for side in config.sources
            if (rows := x.held_out_of(side)) is not None
        },
        "limits": x.limits,
        "answers": config.evaluation.generate,
        "metrics": metrics,
        "encoder": Encoder(bert.encoder, bert.layer, bert.rescale)
        if bert and needs_encoder(metrics)
        else None,
        "task": x.task.name,
        "source": "+".join(side.label for side in config.sources),
        "target": config.target.language,
    }


def dev_scores(x: Start, rows: Sequence[Stage]) -> dict[str, Any]:
    """Method -> ratio or threshold -> the training at it, and its dev scores where they are asked for."""
    found: dict[str, Any] = {}
    for stage in behind(*rows):
        if stage.work is not CHOOSE or not _of_ratios(stage) or stage.name.startswith(f"{DRAWS_FOLDER}/"):
            continue
        scored = x.config.evaluation.points or "scores" in stage.given
        found[stage.name.split("/")[0]] = {
            at: (made, dev_score(x, made) if scored else None) for at, made in stage.given["points"].items()
        }
    return found


def dev_score(x: Start, made: Stage) -> Stage:
    """An adapter's answers to the dev rows, scored."""
    given = {
        "adapter": made,
        **scoring(x, "dev"),
        "bill": Bill(()),
        "behind": Behind(made, x.task, x.config.target.language),
        "method": made.name.split("/")[0],
        "title": made.name,
        "seed": x.config.seed,
        "test_set": "dev",
    }
    return Stage(f"dev/{made.name}", EVALUATE, given)


def best_on_dev(x: Start, name: str, points: Mapping[PruneRatio, Stage], of: str = "p") -> Stage:
    """The best of several adapters on dev, by loss or by what `select_by` says.

    Raises:
        GraspError: That metric is not computed.
    """
    given: dict[str, Any] = {"points": points, **({} if of == "p" else {"of": of})}
    metrics, by = _metrics(x), x.config.select_by
    if by == "task":
        by = next(iter(x.task.metrics), "loss")
    if by == "loss":
        return Stage(name, CHOOSE, given)
    if by not in metrics:
        known = ", ".join(metrics) or "none here"
        raise GraspError(f"select_by is {by}: name it in evaluation.metrics, too (they are {known})")
    given |= {"by": by, "scores": {at: dev_score(x, made) for at, made in points.items()}}
    return Stage(name, CHOOSE, given)


def deployed(x: Start, method: Method, seed: int, made: Adapter, row: Stage) -> Stage:
    """What it costs to deploy, measured after it was scored."""
    config = x.config
    test = x.rows(config.target, "test")
    shown = min(config.evaluation.generate or EXAMPLES_DEPLOYED, EXAMPLES_DEPLOYED)
    given = {
        "model": x.model,
        "device": config.device,
        "adapter": made,
        "examples": replace(test, limit=min(shown, test.limit or shown)),
        "limits": x.limits,
        "after": row,
    }
    return Stage(f"deployment/{method.name}/seed{seed}", DEPLOY, given)


def _trains(choice: Stage) -> bool:
    """Whether each point of a choice was trained at, and not only pruned to it."""
    return all(made.work in (TRAIN, CHOOSE) for made in choice.given["points"].values())


def _of_ratios(choice: Stage) -> bool:
    """Not of learning rates."""
    return choice.given.get("of") != "learning_rate"


def _source_names(x: Start, seed: int) -> set[str]:
    adapters = [*x.first.sources.values(), *x.repeated(seed).sources.values()]
    return {adapter.name for adapter in adapters if isinstance(adapter, Stage)}


def _metrics(x: Start) -> tuple[str, ...]:
    """The metrics of the answers: the config's, or the task's own.

    Raises:
        GraspError: The task's are unknown, or need an encoder that the config does not name.
    """
    wanted = x.config.evaluation
    if wanted.metrics != "task":
        return wanted.metrics
    for name in x.task.metrics:
        if name not in SCORES:
            raise GraspError(f"the task {x.task.name} asks for the metric '{name}', which is unknown")
        if needs_encoder([name]) and wanted.bertscore is None:
            raise GraspError(
                f"the task {x.task.name} asks for {name}: set evaluation.bertscore (encoder, layer), "
                "or name other metrics in evaluation.metrics"
            )
    return x.task.metrics
