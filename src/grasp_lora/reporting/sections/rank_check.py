"""The micro-dev reward's ranking of ratios against the trained grid's, by optimizer step."""

from collections.abc import Iterator
from pathlib import Path

from grasp_lora.reporting.blocks import Block, Figure, Table
from grasp_lora.reporting.found import Found
from grasp_lora.workspace.records import RankCheck


def blocks(found: Found) -> Iterator[Block]:
    if (check := found.rank_check) is None:
        return
    ratios = list(check.dev_loss)
    rows = [["dev loss after fine-tuning", *(f"{check.dev_loss[p]:.4f}" for p in ratios), ""]]
    for one in check.rounds:
        rho = "" if one["rho"] is None else f"{one['rho']:+.2f}"
        rewards = [f"{one['rewards'][p]:.4f}" for p in ratios]
        rows.append([f"micro-dev reward, step {one['step']}", *rewards, rho])
    title = "Does the micro-dev reward rank ratios as dev loss after fine-tuning does?"
    yield Table(title, ["p", *(f"{float(p):.2f}" for p in ratios), "Spearman's ρ"], rows)
    yield Figure("rank_check", lambda path: draw(path, check))


def draw(path: Path, check: RankCheck) -> None:
    """Spearman's rho between micro-dev reward and minus dev loss after fine-tuning, over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = [(one["step"], one["rho"]) for one in check.rounds if one["rho"] is not None]
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.plot([step for step, _ in known], [rho for _, rho in known], marker="o", color="tab:blue")
    axes.set(xlabel="optimizer step", ylabel="Spearman's ρ", ylim=(-1.05, 1.05))
    axes.set_title("Micro-dev reward against dev loss after fine-tuning", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
