"""The methods, and the stages that a config asks for."""

from dataclasses import replace
from typing import Any

from grasp_lora.config.tree import Config, MethodNames
from grasp_lora.errors import GraspError
from grasp_lora.methods.baselines import MERGED, SINGLE
from grasp_lora.methods.combinations import COMBINATIONS
from grasp_lora.methods.learned import LEARNED, variant
from grasp_lora.methods.method import Adapter, Method, Study
from grasp_lora.methods.searched import SEARCHED
from grasp_lora.methods.start import Start
from grasp_lora.methods.studies import STUDIES
from grasp_lora.metrics.scoring import METRICS as SCORES
from grasp_lora.metrics.scoring import needs_encoder
from grasp_lora.stages.choose import CHOOSE
from grasp_lora.stages.deploy import DEPLOY
from grasp_lora.stages.evaluate import EVALUATE
from grasp_lora.stages.learn import LEARN
from grasp_lora.stages.report import REPORT
from grasp_lora.workspace.resources import Behind, Bill, Encoder
from grasp_lora.workspace.stage import Stage, behind

__all__ = ["METHODS", "NAMES", "chosen", "plan"]

METHODS = {method.name: method for method in (*SINGLE, *COMBINATIONS, *MERGED, *SEARCHED, *LEARNED)}
_STUDIES = {study.name: study for study in STUDIES}
_LISTED: dict[str, Method | Study] = {**METHODS, **_STUDIES}
NAMES = MethodNames(
    known=tuple(_LISTED),
    all=tuple(name for name, one in _LISTED.items() if one.in_all),
    default=tuple(name for name, method in METHODS.items() if method.default),
)
EXAMPLES_DEPLOYED = 4  # rates hardly differ between prompts; each is answered several times, in two forms


def chosen(config: Config) -> list[Method]:
    """The methods and variants that a config names, in its order.

    Raises:
        GraspError: There is no such method, or none but studies of methods.
    """
    if unknown := [name for name in config.methods if name not in _LISTED]:
        raise GraspError(f"no method is called {unknown[0]!r}; there are {', '.join(sorted(_LISTED))}")
    named = [METHODS[name] for name in config.methods if name in METHODS]
    named += [variant(name, control) for name, control in config.variants.items()]
    if not named:
        raise GraspError(f"{', '.join(config.methods)} is about methods: name at least one beside it")
    return named


def plan(x: Start) -> list[Stage]:
    """The stages of a whole run, each after those it needs; the last is the report."""
    config, methods = x.config, chosen(x.config)
    rows: list[Stage] = []
    deployed: dict[str, Stage] = {}
    for method in methods:
        for seed in config.seeds if method.seeded else config.seeds[:1]:
            made = method.adapter(x, seed)
            row = _evaluated(x, method, seed, made)
            rows.append(row)
            if config.evaluation.deployment and seed == config.seeds[0]:
                deployed[method.title] = _deployed(x, method, seed, made, row)
    reference = next((method for method in methods if method.reference), methods[0])
    given: dict[str, Any] = {
        "rows": tuple(rows),
        "reference": reference.name,
        "learned": _learned(reference.adapter(x, config.seed)),
        "deployed": deployed,
        **{
            study.shown: study.stage(x) if name in config.methods else None
            for name, study in _STUDIES.items()
        },
    }
    return behind(Stage("report", REPORT, given, derived=True))


def _evaluated(x: Start, method: Method, seed: int, made: Adapter) -> Stage:
    config, metrics, bert = x.config, _metrics(x), x.config.evaluation.bertscore
    given = {
        "model": x.model,
        "adapter": made,
        "dev": x.rows(config.target, "dev"),
        "test": x.rows(config.target, "test"),
        "limits": x.limits,
        "answers": config.evaluation.generate,
        "metrics": metrics,
        "encoder": Encoder(bert.encoder, bert.layer, bert.rescale)
        if bert and needs_encoder(metrics)
        else None,
        "bill": Bill(method.paid(made)),
        "behind": Behind(made, config.target.language),
        "method": method.name,
        "title": method.title,
        "exhaustive": any(stage.work is CHOOSE for stage in behind(made)),
        "seed": seed,
        "task": x.task.name,
        "source": config.source.language,
        "target": config.target.language,
    }
    return Stage(f"eval/{method.name}/seed{seed}", EVALUATE, given)


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


def _deployed(x: Start, method: Method, seed: int, made: Adapter, row: Stage) -> Stage:
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


def _learned(made: Adapter) -> Stage | None:
    """The learning run behind an adapter, if there is one: the report shows its trajectory."""
    return next((stage for stage in behind(made) if stage.work is LEARN), None)
