"""The picture of a rank check."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["plot_rank_check"]


def plot_rank_check(path: Path, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Draw Spearman's rho between micro-dev reward and minus dev loss after fine-tuning, over the steps.

    Args:
        path: The picture's file; its suffix decides the format.
        rounds: `step` and `rho` (None where it is not defined) of each.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = [(found["step"], found["rho"]) for found in rounds if found["rho"] is not None]
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.plot([step for step, _ in known], [rho for _, rho in known], marker="o", color="tab:blue")
    axes.set(xlabel="optimizer step", ylabel="Spearman's ρ", ylim=(-1.05, 1.05))
    axes.set_title("Micro-dev reward against dev loss after fine-tuning", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
