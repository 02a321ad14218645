"""Loss over the prune ratio, after fine-tuning and before, and what the rows cannot tell apart."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from grasp_lora.control.noise import Look, Z, paired_error
from grasp_lora.ratios import PruneRatio
from grasp_lora.reporting.blocks import Block, Figure
from grasp_lora.reporting.drawing import BLUE, COLOURS, GREEN, GREY, ORANGE, PINK
from grasp_lora.reporting.found import Found, MethodResult

Point = tuple[float, float, float]
"""A ratio, the difference in loss to the smallest ratio, and half of its 95 % interval."""


def blocks(found: Found) -> Iterator[Block]:
    by_ratio = {one.p or 0.0: one for one in found.results if _is_fixed(one)}
    swept = [by_ratio[p] for p in sorted(by_ratio)]
    searched = {name: points for name, points in found.searched.items() if all(_is_ratio(p) for p in points)}
    draws = found.learned.get(found.reference, ())
    look = draws[0].look if draws else None
    panels: list[Callable[[Any], None]] = []
    if len({one.p for one in swept}) > 1:
        panels.append(lambda axes: _swept(axes, swept))
    elif searched:
        panels.append(lambda axes: _searched(axes, searched))
    if look is not None and isinstance(look.p, float):
        panels.append(lambda axes: _before(axes, look))
    if not panels:
        return
    yield Figure(
        "loss_over_p",
        lambda canvas: _draw(canvas, panels, found.compared.p),
        "After: loss under a mask at each ratio, less that at the smallest one; the "
        "intervals are of paired differences over rows. Before: dev rows at some ratios after the learning "
        "run, before any fine-tuning at them; the rows cannot tell the shaded ones from the best. The "
        "dotted line is p*.",
        (9, 3.6),
    )


def _is_ratio(at: PruneRatio) -> bool:
    """No threshold, and one for all adapters."""
    return isinstance(at, float) and 0.0 <= at <= 1.0


def _is_fixed(one: MethodResult) -> bool:
    """One ratio through a whole training: a sweep's points, and the merge that is not pruned."""
    row = one.rows[0]
    common = isinstance(one.p, float)  # what several adapters' own ratios do is the map's to show
    return common and one.has_dev and not row.control_of and (row.is_point or one.p == 0.0)


def _draw(canvas: Any, panels: Sequence[Callable[[Any], None]], p: PruneRatio | None) -> None:
    for axes, draw in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
        axes.axhline(0, color=GREY, linewidth=0.7)
        axes.set(xlabel="prune ratio p", ylabel="loss, difference (nats)")
        if isinstance(p, float):
            axes.axvline(p, color=PINK, linestyle=":", linewidth=1.4)


def _swept(axes: Any, swept: Sequence[MethodResult]) -> None:
    for name, colour in (("dev", ORANGE), ("test", BLUE)):
        _errorbar(axes, _differences(swept, name), name, colour)
    axes.set_title("after fine-tuning")
    axes.legend()


def _searched(axes: Any, searched: Mapping[str, Mapping[PruneRatio, Mapping[str, float]]]) -> None:
    for (name, points), colour in zip(searched.items(), cycle(COLOURS), strict=False):
        x = sorted(points)
        losses = [points[p]["dev_loss"] - points[x[0]]["dev_loss"] for p in x]
        axes.plot(x, losses, "o-", color=colour, label=f"{name}, dev")
    axes.set_title("after fine-tuning")
    axes.legend()


def _before(axes: Any, look: Look) -> None:
    seen = [(p, *_minus(look.difference(p, look.p))) for p in look.ratios if isinstance(p, float)]
    _errorbar(axes, seen, "dev, against p*", GREEN)
    low, high = look.range
    axes.axvspan(low, high, color=GREEN, alpha=0.12, linewidth=0)
    axes.set_title("before fine-tuning")


def _errorbar(axes: Any, points: Sequence[Point], label: str, colour: str) -> None:
    x, y, error = ([point[i] for point in points] for i in range(3))
    axes.errorbar(
        x, y, yerr=error, color=colour, marker="o", markersize=4, capsize=3, linewidth=1.2, label=label
    )


def _differences(swept: Sequence[MethodResult], name: str) -> list[Point]:
    losses = [one.losses("dev_losses" if name == "dev" else "test_losses") for one in swept]
    row, first = swept[0].rows[0], losses[0]
    groups = row.dev_groups if name == "dev" else row.groups
    return [
        (
            one.p if isinstance(one.p, float) else 0.0,
            statistics.fmean(own) - statistics.fmean(first),
            Z * (paired_error(own, first, groups) or 0.0),
        )
        for one, own in zip(swept, losses, strict=True)
        if own and first
    ]


def _minus(reward: tuple[float, float, float]) -> tuple[float, float]:
    """A loss difference and half its interval, of a reward's."""
    mean, low, high = reward
    return -mean, (high - low) / 2
