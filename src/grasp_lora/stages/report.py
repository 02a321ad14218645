"""Stage 6: the trajectory's picture and a summary."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grasp_lora.control.controller import Round
from grasp_lora.reporting.summary import predictions, table
from grasp_lora.reporting.trajectory import plot_trajectory
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.run_directory import RunDirectory

__all__ = ["report"]

# What `merge_untrained` and the others are called where people read.
_TITLES = {
    "zero_shot": "backbone alone",
    "lora_source": "source adapter",
    "lora_target": "target adapter, not merged",
    "merge_untrained": "merged, not fine-tuned",
    "merge": "merged, fine-tuned, not pruned",
    "merge_prune": "merged, pruned at every step, best of the grid",
    "grid": "best of the grid",
    "random": "random ratios",
    "grasp": "GRASP",
}


def report(inputs: Inputs, run: RunDirectory, evaluations_by_seed: Mapping[str, Sequence[str]]) -> Path:
    """Write `report/summary.md` and, where a ratio was learned, `report/trajectory.png` and `.svg`.

    Args:
        evaluations: The evaluation stage of every method, in the order to show.
    """
    evaluations = {m: stages[0] for m, stages in evaluations_by_seed.items()}
    learn = inputs.learn_stage()

    def work(folder: Path) -> None:
        parts = []
        if "grasp" in evaluations:
            parts.append(_learned(inputs, run.path(learn), folder))
        scores = {
            m: json.loads((run.path(e) / "scores.json").read_text("utf-8")) for m, e in evaluations.items()
        }
        rows = [
            [_TITLES.get(m, m), f"{s['dev_loss']:.4f}", f"{s['test_loss']:.4f}"] for m, s in scores.items()
        ]
        parts.append("Loss on target tokens (nats):\n\n" + table(["method", "dev", "test"], rows))
        if metrics := inputs.config.evaluation.metrics:
            rows = [
                [_TITLES.get(m, m), *(f"{s['metrics'][name]['value']:.2f}" for name in metrics)]
                for m, s in scores.items()
            ]
            parts.append("Answers on the test set (0 to 100):\n\n" + table(["method", *metrics], rows))
        if shown := _answers(run, evaluations):
            parts.append("Greedy answers to the first test examples:\n\n" + predictions(shown))
        (folder / "summary.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")

    dependencies = {name: run.output(stage, "scores.json") for name, stage in evaluations.items()}
    if "grasp" in evaluations:
        dependencies["rounds"] = run.output(learn, "rounds.jsonl")
    return run.stage("report", dependencies, work)


def _learned(inputs: Inputs, learn: Path, folder: Path) -> str:
    ratio = json.loads((learn / "ratio.json").read_text("utf-8"))
    rounds = [Round.from_json(line) for line in (learn / "rounds.jsonl").read_text("utf-8").splitlines()]
    source, target = inputs.config.source.language, inputs.config.target.language
    for suffix in ("png", "svg"):
        plot_trajectory(
            folder / f"trajectory.{suffix}",
            steps=[r.step for r in rounds],
            committed=[r.p_curr for r in rounds],
            mu=[r.mu for r in rounds],
            sigma=[r.sigma for r in rounds],
            probes=[(r.step, x.p, x.reward) for r in rounds for x in r.probes],
            chosen=ratio["p"],
            title=f"{inputs.task.name}: {source} → {target}",
        )
    probes = sum(len(r.probes) for r in rounds)
    return f"Learned prune ratio p* = {ratio['p']:.4f}, from {len(rounds)} rounds with {probes} probes."


def _answers(run: RunDirectory, evaluations: Mapping[str, str]) -> list[dict[str, str]]:
    blocks: list[dict[str, str]] = []
    for method, stage in evaluations.items():
        lines = (run.path(stage) / "predictions.jsonl").read_text("utf-8").splitlines()
        for i, row in enumerate(map(_row, lines)):
            if i == len(blocks):
                blocks.append({"reference": row["references"][0]})
            blocks[i][_TITLES.get(method, method)] = " ".join(row["prediction"].split())
    return blocks


def _row(line: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    return row
