"""An experiment as jobs: which stages a config asks for, and in what order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from grasp_lora.config import Config
from grasp_lora.merging import PEFT_METHODS
from grasp_lora.stages.choose import choose
from grasp_lora.stages.combine import combine
from grasp_lora.stages.deploy import deploy
from grasp_lora.stages.evaluate import evaluate
from grasp_lora.stages.finetune import finetune
from grasp_lora.stages.inputs import Inputs, adapter_folder
from grasp_lora.stages.learn_ratio import learn_ratio
from grasp_lora.stages.lorahub import lorahub
from grasp_lora.stages.merge import merge
from grasp_lora.stages.optuna_ratio import optuna_ratio
from grasp_lora.stages.rank_check import rank_check
from grasp_lora.stages.report import report
from grasp_lora.stages.run_directory import RunDirectory
from grasp_lora.stages.train_adapter import train_adapter

__all__ = ["Job", "needed", "plan"]


@dataclass(frozen=True, slots=True)
class Job:
    """One stage to run once those it needs are done. `name` is its folder in the run directory."""

    name: str
    run: Callable[[], Path]
    needs: tuple[str, ...] = ()


def plan(config: Config, inputs: Inputs, run: RunDirectory) -> list[Job]:
    """The jobs of `grasp run`, each after those it needs."""
    jobs: dict[str, Job] = {}

    def add(*more: Job) -> None:
        for job in more:
            jobs.setdefault(job.name, job)

    sides = {f"adapters/{side.language}": side for side in (config.source, config.target)}
    add(*(Job(name, partial(train_adapter, inputs, run, side)) for name, side in sides.items()))
    add(Job("merged", partial(merge, inputs, run), tuple(sides)))
    shown: dict[str, list[str]] = {}
    for method in (*config.methods, *config.variants):
        if method == "rank_check":
            continue
        for seed in config.seeds if method in _SEEDED or method in config.variants else config.seeds[:1]:
            made, adapter = _adapter(method, seed, inputs, run)
            add(*made)
            needs = tuple(job.name for job in made) or tuple(sides)
            name = f"eval/{method}/seed{seed}"
            cost = _cost(method, seed, needs, config)
            add(Job(name, partial(evaluate, inputs, run, method, adapter, seed, cost), needs))
            shown.setdefault(method, []).append(name)
    checks: tuple[str, ...] = ()
    if "rank_check" in config.methods:
        points = _points("grid", config)
        add(*_grid("grid", config.seed, inputs, run))
        checks = (inputs.learn_stage("rank_check"),)
        add(Job(checks[0], partial(rank_check, inputs, run, points), tuple(points.values())))
    if config.evaluation.deployment:
        seed = config.seeds[0]
        for method, stages in shown.items():
            name = f"deployment/{method}/seed{seed}"
            adapter = _adapter(method, seed, inputs, run)[1]
            add(Job(name, partial(deploy, inputs, run, method, adapter, seed), (stages[0],)))
            checks += (name,)
    scored = tuple(stage for stages in shown.values() for stage in stages)
    add(Job("report", partial(report, inputs, run, shown, checks), scored + checks))
    return list(jobs.values())


def needed(jobs: Sequence[Job], *names: str) -> list[Job]:
    """The named jobs and all that they need, in their order."""
    by_name = {job.name: job for job in jobs}
    wanted: set[str] = set()
    open_names = list(names)
    while open_names:
        if (name := open_names.pop()) not in wanted:
            wanted.add(name)
            open_names += by_name[name].needs
    return [job for job in jobs if job.name in wanted]


# Methods with a training run of their own. A ratio is found once, with the config's seed, as the papers do;
# the training at that ratio is repeated with every seed.
_SEEDED = ("merge", "merge_prune", "grid", "random", "optuna", "grasp")


def _adapter(method: str, seed: int, inputs: Inputs, run: RunDirectory) -> tuple[list[Job], Path | None]:
    """The jobs that make a method's adapter beyond the two sides', and where it will be."""
    config = inputs.config
    sides = tuple(f"adapters/{side.language}" for side in (config.source, config.target))
    match method:
        case "zero_shot":
            return [], None
        case "lora_source":
            return [], adapter_folder(run, config.source)
        case "lora_target":
            return [], adapter_folder(run, config.target)
        case "merge_untrained":
            return [Job("merged", partial(merge, inputs, run), sides)], run.path("merged")
        case "merge":
            made = [_tuned(f"merge/seed{seed}", 0.0, seed, inputs, run)]
        case "grid" | "merge_prune":
            made = _grid(method, seed, inputs, run)
        case "lorahub":
            made = [Job("combined/lorahub", partial(lorahub, inputs, run), sides)]
        case _ if method in PEFT_METHODS:
            name = f"combined/{method}"
            made = [Job(name, partial(combine, inputs, run, method), sides)]
        case _:  # grasp and its variants, random, optuna
            learn = inputs.learn_stage(method)
            how = (
                partial(optuna_ratio, inputs, run)
                if method == "optuna"
                else partial(learn_ratio, inputs, run, method)
            )
            folder = (
                "final"
                if method == "grasp"
                else f"variants/{method}"
                if method in config.variants
                else method
            )
            made = [
                Job(learn, how, ("merged",)),
                _tuned(f"{folder}/seed{seed}", method, seed, inputs, run, needs=learn),
            ]
    return made, run.path(made[-1].name)


def _tuned(
    name: str,
    p: float | str,
    seed: int,
    inputs: Inputs,
    run: RunDirectory,
    needs: str = "merged",
    every_step: bool = False,
) -> Job:
    return Job(name, partial(finetune, inputs, run, seed, name, p, every_step=every_step), (needs,))


def _points(method: str, config: Config) -> dict[float, str]:
    """Ratio -> the stage of its fine-tuning with the config's seed."""
    return {p: f"{method}/p{p:.2f}-seed{config.seed}" for p in config.grid}


def _grid(method: str, seed: int, inputs: Inputs, run: RunDirectory) -> list[Job]:
    """All points with the config's seed, the best of them, and for another seed one more run at its ratio."""
    first, points = inputs.config.seed, _points(method, inputs.config)
    every_step = method == "merge_prune"
    if (
        every_step and inputs.config.merge_prune.unit == "module"
    ):  # by a threshold, so there is no ratio to find
        return [_tuned(f"{method}/seed{seed}", 0.0, seed, inputs, run, every_step=True)]
    best = inputs.ratio_stage(method)
    made = [_tuned(name, p, first, inputs, run, every_step=every_step) for p, name in points.items()]
    made.append(Job(best, partial(choose, run, points, best), tuple(points.values())))
    if seed != first:
        name = f"{method}/seed{seed}"
        made.append(_tuned(name, method, seed, inputs, run, needs=best, every_step=every_step))
    return made


def _cost(method: str, seed: int, needs: Sequence[str], config: Config) -> list[str]:
    """The stages that are a method's cost: what all methods share is not, unless it is all of the method."""
    sides = {"lora_source": config.source, "lora_target": config.target}
    if method in sides:
        return [] if sides[method].adapter else [f"adapters/{sides[method].language}"]
    own = [stage for stage in needs if stage != "merged" and not stage.startswith("adapters/")]
    if method in ("grid", "merge_prune") and seed != config.seed and len(own) > 1:
        own.pop()  # its best point is trained already: the one at another seed is for the deviation only
    return own
