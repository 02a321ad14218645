"""Stage 6: the tables of a run, and the pictures of what was learned."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from grasp_lora.control.controller import Round
from grasp_lora.reporting import summary
from grasp_lora.reporting.rank_check import plot_rank_check
from grasp_lora.reporting.results import (
    MethodResult,
    compare_methods,
    write_comparisons,
    write_costs,
    write_scores,
)
from grasp_lora.reporting.trajectory import plot_trajectory
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.results import TITLES, read_results
from grasp_lora.stages.run_directory import RunDirectory

__all__ = ["report"]

SHOWN = 4  # answers in the summary; all are in predictions.jsonl


def report(
    inputs: Inputs, run: RunDirectory, evaluations: Mapping[str, Sequence[str]], others: Sequence[str] = ()
) -> Path:
    """Write `report/`: `summary.md`, tables as CSV, and pictures of what was learned.

    Every method is compared with GRASP, or without it with the first one, by approximate randomisation.

    Args:
        evaluations: Method -> its evaluation stages, one per seed, in the order to show.
        others: Further stages to show: the rank check and `deployment/METHOD/seedN`.
    """
    learn, check = inputs.learn_stage(), inputs.learn_stage("rank_check")
    deployed = [stage for stage in others if stage.startswith("deployment/")]

    def work(folder: Path) -> None:
        parts = []
        if "grasp" in evaluations:
            parts.append(_learned(inputs, run.path(learn), folder))
        results = read_results(run, evaluations)
        if results:
            parts += _scores(inputs, results, folder)
        if check in others:
            found = json.loads((run.path(check) / "rank_check.json").read_text("utf-8"))
            parts.append(
                "Does the micro-dev reward rank ratios as dev loss after fine-tuning does?\n\n"
                + summary.rank_table(found)
            )
            plot_rank_check(folder / "rank_check.svg", found["rounds"])
        if deployed:
            measured = {
                TITLES.get(m := stage.split("/")[1], m): json.loads(
                    (run.path(stage) / "deployment.json").read_text("utf-8")
                )
                for stage in deployed
            }
            parts.append("Deployment, one example at a time:\n\n" + summary.deployment_table(measured))
        if shown := _answers(results):
            parts.append("Greedy answers to the first test examples:\n\n" + summary.predictions(shown))
        (folder / "summary.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")

    shown_stages = [stage for stages in evaluations.values() for stage in stages] + list(others)
    if "grasp" in evaluations:
        shown_stages.append(learn)
    config = inputs.config
    dependencies = {
        "shown": shown_stages,  # their order is the tables', and says which is the reference
        "titles": {method: TITLES.get(method, method) for method in evaluations},
        "task": inputs.task.name,
        "languages": [config.source.language, config.target.language],
        "metrics": inputs.metrics,
        **{stage: run.made(stage) for stage in shown_stages},
    }
    return run.stage("report", dependencies, work, derived=True)


def _scores(inputs: Inputs, results: Sequence[MethodResult], folder: Path) -> list[str]:
    """The tables of scores and costs, and as CSV what is behind them."""
    metrics, language = inputs.metrics, inputs.config.target.language
    write_scores(folder / "scores.csv", results, metrics)
    write_costs(folder / "costs.csv", results)
    reference = next((r for r in results if r.method == "grasp"), results[0])
    tested = ["test_loss"] if len(reference.scores[0]["test_losses"]) > 1 else []
    if len(reference.predictions[0]) > 1:
        tested += metrics
    against = {
        result.method: [compare_methods(reference, result, metric, language) for metric in tested]
        for result in results
        if result is not reference
    }
    write_comparisons(
        folder / "comparisons.csv", {(reference.method, method): c for method, c in against.items()}
    )
    on_loss = {method: found[0] for method, found in against.items() if "test_loss" in tested}
    parts = [
        "Loss on target tokens (nats):\n\n" + summary.loss_table(results, on_loss, reference.title),
    ]
    if metrics:
        count, mark = len(reference.predictions[0]), f"* differs from {reference.title} with p < 0.05"
        parts.append(
            f"Answers to {count} test examples (0 to 100; {mark}):\n\n"
            + summary.metric_table(results, metrics, against)
        )
    if any(result.passes() for result in results):
        parts.append(
            "Cost beyond the two adapters and their sum (example passes; one seed):\n\n"
            + summary.cost_table(results)
        )
    return parts


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


def _answers(results: Sequence[MethodResult]) -> list[dict[str, str]]:
    blocks: list[dict[str, str]] = []
    for result in results:
        for i, row in enumerate(result.predictions[0][:SHOWN]):
            if i == len(blocks):
                blocks.append({"reference": row["references"][0]})
            blocks[i][result.title] = " ".join(row["prediction"].split())
    return blocks
