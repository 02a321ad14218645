"""Where the ratio went in the learning run, and what the probes saw."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from grasp_lora.control.noise import Look
from grasp_lora.reporting.blocks import Block, Data, Figure, Text
from grasp_lora.reporting.found import Found, Learned


def blocks(found: Found) -> Iterator[Block]:
    values = ("step", "p_curr", "mu", "sigma", "base_reward", "committed", "p_next")
    rows = [
        (name, draw, one.round, *(getattr(one, value) for value in values))
        for name, draws in found.learned.items()
        for draw, learned in enumerate(draws)
        for one in learned.rounds
    ]
    if rows:
        yield Data("trajectories", ("method", "draw", "round", *values), rows)
    draws, row = found.learned.get(found.reference), found.compared.rows[0]
    if not draws:
        return
    learned = draws[0]
    title = f"{row.task}: {row.source} → {row.target}"
    yield Figure("trajectory", lambda path: draw(path, learned, title), ("png", "svg"))
    probes = sum(len(one.probes) for one in learned.rounds)
    text = f"Learned prune ratio p* = {learned.p:.4f}, from {len(learned.rounds)} rounds, {probes} probes."
    if len(draws) > 1:
        text += f" Of the other draws it is {', '.join(f'{one.p:.4f}' for one in draws[1:])}."
    looks = [(draw, one.look) for draw, one in enumerate(draws) if one.look is not None]
    if looks:
        yield _looked(looks)
    if (look := learned.look) is not None:
        low, high = look.range
        text += (
            f" On {len(look.dev[look.p])} dev rows, before any fine-tuning at it, "
            f"{_ratios(look)} were looked at once: from {low:.2f} to {high:.2f} they cannot be told from the "
            f"best, {look.best:.2f} (by {look.margin:g} nats, or by noise; so many rows show a difference of "
            f"{look.detectable:.3f} four times in five)."
        )
    yield Text(text)


def _ratios(look: Look) -> str:
    return ", ".join(f"{p:.2f}" for p in sorted(look.dev))


def _looked(looks: Sequence[tuple[int, Look]]) -> Data:
    """Each ratio against p*: differences of mean reward on dev, with 95 % intervals."""
    rows = [
        (draw, p, *look.difference(p, look.p), look.is_close(p, look.best))
        for draw, look in looks
        for p in sorted(look.dev)
    ]
    values = ("reward_difference_from_p_star", "low", "high", "within_noise_of_best")
    return Data("on_dev", ("draw", "p", *values), rows)


def draw(path: Path, learned: Learned, title: str) -> None:
    """p_curr, the policy's mean and spread, every probe and p* over optimizer steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rounds = learned.rounds
    steps, committed, mu = [r.step for r in rounds], [r.p_curr for r in rounds], [r.mu for r in rounds]
    probes = [(r.step, x.p, x.reward) for r in rounds for x in r.probes]
    figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
    low, high = [r.mu - r.sigma for r in rounds], [r.mu + r.sigma for r in rounds]
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
    axes.axhline(learned.p, color="tab:red", linewidth=1.2, linestyle=":", label=f"p* = {learned.p:.3f}")
    axes.set(xlabel="optimizer step", ylabel="prune ratio p", title=title)
    seen = [learned.p, *low, *high, *(p for _, p, _ in probes)]
    axes.set_ylim(max(-0.03, min(seen) - 0.05), min(1.03, max(seen) + 0.05))
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
