"""An experiment as jobs: which stages a config asks for, and in what order."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grasp_lora.config import Config, Method
from grasp_lora.stages.evaluate import evaluate
from grasp_lora.stages.finetune import finetune, learned_ratio
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.learn_ratio import learn_ratio
from grasp_lora.stages.merge import merge
from grasp_lora.stages.report import report
from grasp_lora.stages.run_directory import RunDirectory
from grasp_lora.stages.train_adapter import adapter_folder, train_adapter

__all__ = ["Job", "plan"]


@dataclass(frozen=True, slots=True)
class Job:
    """One stage to run once those it needs are done. `name` is its folder in the run directory."""

    name: str
    run: Callable[[], Path]
    needs: tuple[str, ...] = ()


def plan(config: Config, inputs: Inputs, run: RunDirectory) -> list[Job]:
    """The jobs of `grasp run`, each after those it needs."""
    source, target, learn = (
        f"adapters/{config.source.language}",
        f"adapters/{config.target.language}",
        f"learn/seed{config.seed}",
    )
    jobs = [
        Job(source, lambda: train_adapter(inputs, run, config.source)),
        Job(target, lambda: train_adapter(inputs, run, config.target)),
        Job("merged", lambda: merge(inputs, run), (source, target)),
    ]
    if "grasp" in config.methods:
        jobs.append(Job(learn, lambda: learn_ratio(inputs, run), ("merged",)))
    evaluations = []
    for method in config.methods:
        for seed in config.seeds if method in _TRAINED else config.seeds[:1]:
            made, adapter = _adapter(method, seed, inputs, run, learn)
            jobs += made
            name = f"eval/{method}/seed{seed}"
            jobs.append(
                Job(
                    name,
                    lambda method=method, adapter=adapter, seed=seed: evaluate(  # type: ignore[misc]
                        inputs, run, method, adapter(), seed
                    ),
                    tuple(job.name for job in made) or ("merged",),
                )
            )
            evaluations.append((method, name))
    first = {method: name for method, name in reversed(evaluations)}
    shown = {method: first[method] for method in config.methods}
    jobs.append(Job("report", lambda: report(inputs, run, shown), tuple(name for _, name in evaluations)))
    return jobs


_TRAINED = {"merge": "merge", "grasp": "final"}  # methods with a training run of their own: their folders


def _adapter(
    method: Method, seed: int, inputs: Inputs, run: RunDirectory, learn: str
) -> tuple[list[Job], Callable[[], Path | None]]:
    """The jobs that make a method's adapter beyond the shared ones, and where it will be."""
    config = inputs.config
    if method in _TRAINED:
        name = f"{_TRAINED[method]}/seed{seed}"
        ratio = (lambda: learned_ratio(inputs, run)) if method == "grasp" else (lambda: 0.0)
        needs = (learn,) if method == "grasp" else ("merged",)
        return [Job(name, lambda: finetune(inputs, run, ratio(), seed, name), needs)], lambda: run.path(name)
    places: dict[str, Callable[[], Path | None]] = {
        "zero_shot": lambda: None,
        "lora_source": lambda: adapter_folder(run, config.source)[0],
        "lora_target": lambda: adapter_folder(run, config.target)[0],
        "merge_untrained": lambda: run.path("merged"),
    }
    return [], places[method]
