"""Reading what the evaluation stages left."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grasp_lora.reporting.results import MethodResult
from grasp_lora.stages.run_directory import RunDirectory

__all__ = ["TITLES", "read_results"]

# What the methods are called where people read; the others go by their names.
TITLES = {
    "zero_shot": "backbone alone",
    "lora_source": "source adapter",
    "lora_target": "target adapter, not merged",
    "merge_untrained": "merged, not fine-tuned",
    "merge": "merged, fine-tuned, not pruned",
    "merge_prune": "pruned at every step",
    "grid": "fixed mask, best of the grid",
    "random": "random ratios",
    "lorahub": "LoRAHub",
    "optuna": "Optuna",
    "grasp": "GRASP",
}


def read_results(run: RunDirectory, evaluations: Mapping[str, Sequence[str]]) -> list[MethodResult]:
    """The results of methods whose evaluation stages are done.

    Args:
        evaluations: Method -> its evaluation stages, `eval/METHOD/seedN`, in the order of the seeds.

    Raises:
        GraspError: A stage is not done.
    """
    found = []
    for method, stages in evaluations.items():
        for stage in stages:
            run.output(stage, "scores.json")  # says what to do where there is none
        folders = [run.path(stage) for stage in stages]
        costs = [_json(folder / "cost.json") for folder in folders]
        found.append(
            MethodResult(
                method=method,
                title=TITLES.get(method, method),
                p=_ratio(run, costs[0]["stages"]),
                seeds=tuple(int(folder.name.removeprefix("seed")) for folder in folders),
                scores=tuple(_json(folder / "scores.json") for folder in folders),
                costs=tuple(cost["total"] for cost in costs),
                predictions=tuple(_rows(folder / "predictions.jsonl") for folder in folders),
            )
        )
    return found


def _ratio(run: RunDirectory, stages: Sequence[str]) -> float | None:
    """The ratio that one of the stages learned or chose; the last to say so decides."""
    ratio = None
    for stage in stages:
        if (path := run.path(stage) / "ratio.json").exists():
            ratio = float(_json(path)["p"])
    return ratio


def _rows(path: Path) -> tuple[Any, ...]:
    with path.open(encoding="utf-8") as lines:  # by line feeds alone: texts may hold U+2028
        return tuple(json.loads(line) for line in lines)


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
