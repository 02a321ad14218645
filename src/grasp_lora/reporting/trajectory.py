"""The picture of a learning run: where the ratio went and what the probes saw."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["plot_trajectory"]


def plot_trajectory(
    path: Path,
    *,
    steps: Sequence[int],
    committed: Sequence[float],
    mu: Sequence[float],
    sigma: Sequence[float],
    probes: Sequence[tuple[int, float, float]],
    chosen: float,
    title: str,
) -> None:
    """Draw p_curr, the policy's mean and spread, every probe and p* over optimizer steps.

    Args:
        path: The picture's file; its suffix decides the format.
        steps, committed, mu, sigma: One value per round; `committed` and the policy as the round began.
        probes: (step, p, relative reward) of every candidate.
        chosen: p*.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
    low = [m - s for m, s in zip(mu, sigma, strict=True)]
    high = [m + s for m, s in zip(mu, sigma, strict=True)]
    axes.fill_between(steps, low, high, color="tab:blue", alpha=0.15, linewidth=0, label="policy μ ± σ")
    axes.plot(steps, mu, color="tab:blue", linewidth=1, linestyle="--")
    # A round ends the stretch that was trained under the ratio it began with.
    axes.step(
        [0, *steps], [committed[0], *committed], where="pre", color="black", linewidth=1.8, label="committed"
    )
    limit = max((abs(reward) for _, _, reward in probes), default=0.0) or 1.0
    dots = axes.scatter(
        [step for step, _, _ in probes],
        [p for _, p, _ in probes],
        c=[reward for _, _, reward in probes],
        cmap="RdYlGn",
        vmin=-limit,
        vmax=limit,
        edgecolors="0.4",
        linewidths=0.5,
        s=36,
        zorder=3,
        label="probed ratios",
    )
    figure.colorbar(dots, label="relative reward (nats per target token)")
    axes.axhline(chosen, color="tab:red", linewidth=1.2, linestyle=":", label=f"p* = {chosen:.3f}")
    axes.set(xlabel="optimizer step", ylabel="prune ratio p", title=title)
    seen = [chosen, *low, *high, *(p for _, p, _ in probes)]
    axes.set_ylim(max(-0.03, min(seen) - 0.05), min(1.03, max(seen) + 0.05))
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
