"""Where the ratio went in the learning run, and what the probes saw."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from statistics import fmean, pstdev
from typing import Any

from grasp_lora.control.noise import Look
from grasp_lora.ratios import PerAdapter, each, listed
from grasp_lora.reporting.blocks import Block, Data, Figure, Text
from grasp_lora.reporting.drawing import BLUE, COLOURS, ORANGE, PINK, rewards_in_colour
from grasp_lora.reporting.found import Found
from grasp_lora.reporting.trained import Learned

WINDOW = 10  # rounds, as in GRASP Fig. 2


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
    draws = found.learned.get(found.reference)
    if not draws:
        return
    learned = draws[0]
    probes = sum(len(one.probes) for one in learned.rounds)
    seen = f"{len(learned.rounds)} rounds, {probes} probes"
    text = f"Learned prune {_whose(learned)} p* = {learned.p:.4f}, from {seen}."
    if len(draws) > 1:
        text += f" Of the other draws it is {', '.join(f'{one.p:.4f}' for one in draws[1:])}."
    looks = [(draw, one.look) for draw, one in enumerate(draws) if one.look is not None]
    if looks:
        yield _looked(looks)
    if (look := learned.look) is not None:
        low, high = look.range
        several = isinstance(look.p, PerAdapter)
        close = f"{listed(look.close)}" if several else f"from {low:.2f} to {high:.2f} they"
        text += (
            f" On {len(look.dev[look.p])} dev rows, before any fine-tuning at it, "
            f"{listed(look.ratios)} were looked at once: {close} cannot be told from the "
            f"best, {look.best:.2f} (by {look.margin:g} nats, or by noise; so many rows show a difference of "
            f"{look.detectable:.3f} four times in five)."
        )
    yield Text(text)
    yield from _figures(found, learned)


def _figures(found: Found, learned: Learned) -> Iterator[Block]:
    titles = {result.method: result.title for result in found.results}
    runs: dict[str, Sequence[Learned]] = {}
    for name, draws in found.learned.items():  # methods that differ in the rule share one learning run
        if all(draws[0].rounds != seen[0].rounds for seen in runs.values()):
            runs[titles[name]] = draws
    yield Figure(
        "trajectory",
        lambda canvas: draw(canvas, learned),
        "The learning run: the committed ratio, the policy that draws ratios, and each probe by its reward "
        "against the committed ratio's.",
        (8.0, 4.2 + 2.6 * (len(each(learned.p)) - 1)),
    )
    yield Figure(
        "trajectories",
        lambda canvas: draw_all(canvas, runs),
        f"The committed ratio of every learning run: mean over the last {WINDOW} rounds and one deviation "
        "to each side (GRASP Fig. 2). Wide bands: a ratio that does not settle.",
        (8, 3.6),
    )
    if isinstance(learned.p, PerAdapter):
        return  # a landscape of several ratios is the map's, after fine-tuning
    yield Figure(
        "landscape",
        lambda canvas: draw_landscape(canvas, learned),
        "Micro-dev reward over round and ratio. Bands that stand upright: training changes the reward, the "
        "ratio does not.",
        (8, 3.6),
    )


def _whose(learned: Learned) -> str:
    """What p* is."""
    return f"ratios of {' and '.join(_adapters(learned))}:" if isinstance(learned.p, PerAdapter) else "ratio"


def _adapters(learned: Learned) -> Sequence[str]:
    """Whose the ratios are; one for all is nobody's."""
    several = isinstance(learned.p, PerAdapter)
    return learned.adapters or ([str(i) for i in range(len(each(learned.p)))] if several else [""])


def _looked(looks: Sequence[tuple[int, Look]]) -> Data:
    """Each ratio against p*: differences of mean reward on dev, with 95 % intervals."""
    rows = [
        (draw, p, *look.difference(p, look.p), look.is_close(p, look.best))
        for draw, look in looks
        for p in look.ratios
    ]
    values = ("reward_difference_from_p_star", "low", "high", "within_noise_of_best")
    return Data("on_dev", ("draw", "p", *values), rows)


def draw(canvas: Any, learned: Learned) -> None:
    """p_curr, the policy's mean and spread, every probe and p* over optimizer steps, of each ratio."""
    names = _adapters(learned)
    panels = canvas.subplots(len(names), squeeze=False, sharex=True)[:, 0]
    for i, (axes, name) in enumerate(zip(panels, names, strict=True)):
        _draw_ratio(canvas, axes, learned, i, name)
    panels[-1].set(xlabel="optimizer step")
    handles, labels = panels[-1].get_legend_handles_labels()
    if len(names) > 1:
        labels = [label if "=" not in label else "p*" for label in labels]
    canvas.legend(handles, labels, loc="outside lower center", ncols=4)


def _draw_ratio(canvas: Any, axes: Any, learned: Learned, i: int, name: str) -> None:
    rounds, steps = learned.rounds, [r.step for r in learned.rounds]
    committed, mu, sigma = (
        [each(v)[i] for v in column]
        for column in zip(*((r.p_curr, r.mu, r.sigma) for r in rounds), strict=True)
    )
    probes = [(r.step, each(x.p)[i], x.reward) for r in rounds for x in r.probes]
    p = each(learned.p)[i]
    low, high = ([m + sign * s for m, s in zip(mu, sigma, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0, label="policy μ ± σ")
    axes.plot(steps, mu, color=BLUE, linewidth=1, linestyle="--")
    # A round ends the stretch that was trained under the ratio it began with.
    axes.step(
        [0, *steps], [committed[0], *committed], where="pre", color=ORANGE, linewidth=1.8, label="committed p"
    )
    rewards_in_colour(canvas, axes, probes)
    axes.axhline(p, color=PINK, linewidth=1.4, linestyle=":", label=f"p* = {p:.3f}")
    axes.set(ylabel=f"prune ratio p of {name}" if name else "prune ratio p")
    seen = [p, *low, *high, *(p for _, p, _ in probes)]
    axes.set_ylim(max(-0.03, min(seen) - 0.05), min(1.03, max(seen) + 0.05))


def draw_all(canvas: Any, learned: Mapping[str, Sequence[Learned]]) -> None:
    """Each p_curr over rounds, by title: rolling mean and deviation (GRASP Fig. 2); other draws thinly."""
    axes = canvas.subplots()
    curves = {
        f"{title}, {name}" if name else title: [[each(r.p_curr)[i] for r in one.rounds] for one in draws]
        for title, draws in learned.items()
        for i, name in enumerate(_adapters(draws[0]))
    }
    for colour, (title, several) in zip(cycle(COLOURS), curves.items(), strict=False):
        for draw, committed in enumerate(several):
            x, mean, deviation = rolling(committed)
            label = title if draw == 0 else None
            axes.plot(x, mean, color=colour, linewidth=1.6 if draw == 0 else 0.8, label=label)
            if draw == 0:
                low, high = ([m + sign * d for m, d in zip(mean, deviation, strict=True)] for sign in (-1, 1))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="controller round", ylabel="committed p")
    canvas.legend(loc="outside lower center", ncols=3)


def rolling(values: Sequence[float]) -> tuple[list[int], list[float], list[float]]:
    """Rounds, and the mean and deviation of the last `WINDOW` values at each (fewer at the beginning)."""
    windows = [values[max(0, i - WINDOW + 1) : i + 1] for i in range(len(values))]
    return list(range(1, len(values) + 1)), [fmean(w) for w in windows], [pstdev(w) for w in windows]


def draw_landscape(canvas: Any, learned: Learned) -> None:
    """The absolute reward over (round, p), at every ratio that was looked at."""
    seen = [(r.round, r.p_curr, r.base_reward) for r in learned.rounds]
    seen += [(r.round, x.p, r.base_reward + x.reward) for r in learned.rounds for x in r.probes]
    x, p, reward = (list(column) for column in zip(*seen, strict=True))
    axes = canvas.subplots()
    if len(set(x)) > 2 and len(set(p)) > 2:
        axes.tricontourf(x, p, reward, levels=12, cmap="viridis", alpha=0.75)
    dots = axes.scatter(x, p, c=reward, cmap="viridis", edgecolors="white", linewidths=0.6, s=30, zorder=3)
    canvas.colorbar(dots, label="micro-dev reward (nats, negative)", pad=0.02).outline.set_visible(False)
    axes.set(xlabel="controller round", ylabel="prune ratio p")
