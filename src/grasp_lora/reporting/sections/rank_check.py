"""The micro-dev reward's ranking of ratios against the trained grid's, by optimizer step."""

from collections.abc import Iterator
from typing import Any

from grasp_lora.ratios import as_ratio
from grasp_lora.reporting.blocks import Block, Figure, Table
from grasp_lora.reporting.drawing import BLUE, GREY
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
    yield Table(title, ["p", *(f"{as_ratio(p):.2f}" for p in ratios), "Spearman's ρ"], rows, "rank_check")
    caption = f"{title} 1: in the same order."
    yield Figure("rank_check", lambda canvas: draw(canvas, check), caption, (6, 3))


def draw(canvas: Any, check: RankCheck) -> None:
    """Spearman's rho between micro-dev reward and minus dev loss after fine-tuning, over the steps."""
    known = [(one["step"], one["rho"]) for one in check.rounds if one["rho"] is not None]
    axes = canvas.subplots()
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.plot([step for step, _ in known], [rho for _, rho in known], marker="o", color=BLUE)
    axes.set(xlabel="optimizer step", ylabel="Spearman's ρ", ylim=(-1.05, 1.05))
