"""An experiment as jobs: which stages a config asks for, and in what order."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from grasp_lora.config import Config, Method
from grasp_lora.stages.choose import choose
from grasp_lora.stages.combine import combine
from grasp_lora.stages.evaluate import evaluate
from grasp_lora.stages.finetune import finetune
from grasp_lora.stages.inputs import Inputs, adapter_folder
from grasp_lora.stages.learn_ratio import learn_ratio
from grasp_lora.stages.merge import merge
from grasp_lora.stages.report import report
from grasp_lora.stages.run_directory import RunDirectory
from grasp_lora.stages.train_adapter import train_adapter

__all__ = ["Job", "plan"]


@dataclass(frozen=True, slots=True)
class Job:
    """One stage to run once those it needs are done. `name` is its folder in the run directory."""

    name: str
    run: Callable[[], Path]
    needs: tuple[str, ...] = ()


def plan(config: Config, inputs: Inputs, run: RunDirectory) -> list[Job]:
    """The jobs of `grasp run`, each after those it needs."""
    sides = {f"adapters/{side.language}": side for side in (config.source, config.target)}
    jobs = [Job(name, partial(train_adapter, inputs, run, side)) for name, side in sides.items()]
    jobs.append(Job("merged", partial(merge, inputs, run), tuple(sides)))
    shown: dict[str, str] = {}
    for method in config.methods:
        for seed in config.seeds if method in _SEEDED else config.seeds[:1]:
            made, adapter = _adapter(method, seed, inputs, run)
            name = f"eval/{method}/seed{seed}"
            scored = partial(evaluate, inputs, run, method, adapter, seed)
            jobs += [job for job in made if job.name not in {j.name for j in jobs}]
            jobs.append(Job(name, scored, (made[-1].name,) if made else tuple(sides)))
            shown.setdefault(method, name)
    jobs.append(Job("report", partial(report, inputs, run, shown), tuple(shown.values())))
    return jobs


_SEEDED = ("merge", "merge_prune", "grid", "random", "grasp")  # methods with a training run of their own


def _adapter(method: Method, seed: int, inputs: Inputs, run: RunDirectory) -> tuple[list[Job], Path | None]:
    """The jobs that make a method's adapter beyond the two sides', and where it will be."""
    config = inputs.config
    sides = tuple(f"adapters/{side.language}" for side in (config.source, config.target))

    def tuned(name: str, p: float | str, needs: str = "merged", every_step: bool = False) -> Job:
        return Job(name, partial(finetune, inputs, run, seed, name, p, every_step=every_step), (needs,))

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
            made = [tuned(f"merge/seed{seed}", 0.0)]
        case "grasp" | "random":
            learn = inputs.learn_stage(method)
            folder = "final" if method == "grasp" else method
            made = [
                Job(learn, partial(learn_ratio, inputs, run, method), ("merged",)),
                tuned(f"{folder}/seed{seed}", method, learn),
            ]
        case "grid" | "merge_prune":
            by_module = method == "merge_prune" and config.merge_prune.unit == "module"
            ratios = (0.0,) if by_module else config.grid  # whole modules go by a threshold, not by a ratio
            points = {p: f"{method}/p{p:.2f}-seed{seed}" for p in ratios}
            best = f"{method}/best-seed{seed}"
            made = [tuned(name, p, every_step=method == "merge_prune") for p, name in points.items()]
            made.append(Job(best, partial(choose, run, points, best), tuple(points.values())))
        case _:  # PEFT's combinations
            name = f"combined/{method}"
            made = [Job(name, partial(combine, inputs, run, method), sides)]
    return made, run.path(made[-1].name)
