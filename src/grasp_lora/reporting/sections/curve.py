"""What every ratio loses by one training of all of them, and which ratios the rows cannot tell apart."""

from collections.abc import Iterator, Mapping
from typing import Any

from grasp_lora.control.measured import MeasuredCurve, Point
from grasp_lora.reporting.blocks import Block, Data, Figure, Text
from grasp_lora.reporting.drawing import BLUE, COLOURS, GREY, ORANGE
from grasp_lora.reporting.found import Found


def blocks(found: Found) -> Iterator[Block]:
    rows = [
        (name, draw, f"{point.p:g}", point.mean, *curve.difference(point, curve.least), point in curve.close)
        for name, draws in found.curves.items()
        for draw, curve in enumerate(draws)
        for point in curve.points
    ]
    if not rows:
        return
    values = ("loss", "difference_from_smallest", "low", "high", "within_noise_of_best")
    yield Data("curve", ("method", "draw", "p", *values), rows)
    titles = {result.method: result.title for result in found.results}
    for name, draws in found.curves.items():
        yield Text(_said(titles[name], draws[0]))
    name, draws = next(iter(found.curves.items()))
    if all(isinstance(point.p, float) for point in draws[0].points):
        yield Figure(
            "curve",
            lambda canvas: _draw(canvas, draws[0], _finished(found)),
            "Loss of one set of values under masks at each ratio, less that at the smallest ratio, with 95 % "
            "intervals of paired differences over micro-dev rows; the shaded ratios cannot be told from the "
            "best. Thin lines: dev loss after a training at each ratio, where the run has any.",
        )


def _said(title: str, curve: MeasuredCurve) -> str:
    best, free, close = curve.best, curve.free, curve.close
    rows = len(curve.points[0].losses)
    return (
        f"{title}: on {rows} micro-dev rows the loss is lowest at p = {best.p:.2f} ({best.mean:.4f}); "
        f"{len(close)} of {len(curve.points)} ratios, from {close[0].p:.2f} to {close[-1].p:.2f}, cannot be "
        f"told from it (by {curve.margin:g} nats, or by noise). Up to p = {free.p:.2f} pruning is free: no "
        f"worse than p = {curve.least.p:.2f} by more than {curve.margin:g} nats and one standard error. This "
        "is what one training gives that draws a ratio at every step. It is not what finished training at "
        "each ratio gives."
    )


def _finished(found: Found) -> dict[str, Mapping[float, float]]:
    """Dev loss by ratio after a training at each, by what trained them."""
    seen: dict[str, Mapping[float, float]] = {}
    for name, points in found.searched.items():
        losses = {p: one["dev_loss"] for p, one in points.items() if isinstance(p, float) and p <= 1.0}
        seen |= {f"{name}, dev": losses} if len(losses) == len(points) else {}
    swept = {
        one.p: one.rows[0].dev_loss
        for one in found.results
        if one.rows[0].is_point and isinstance(one.p, float) and one.rows[0].dev_loss is not None
    }
    return {**seen, "sweep, dev": swept} if len(swept) > 1 else seen


def _draw(canvas: Any, curve: MeasuredCurve, finished: Mapping[str, Mapping[float, float]]) -> None:
    axes = canvas.subplots()
    points: list[Point] = list(curve.points)
    x = [point.p for point in points]
    known = all(curve.error(point, curve.least) is not None for point in points)
    mean, low, high = zip(*(curve.difference(point, curve.least) for point in points), strict=True)
    if known:
        axes.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(x, mean, "o-", color=BLUE, label="one training, micro-dev")
    for colour, (label, losses) in zip((ORANGE, *COLOURS[2:]), finished.items(), strict=False):
        at = sorted(losses)
        axes.plot(at, [losses[p] - losses[at[0]] for p in at], "s--", color=colour, linewidth=1, label=label)
    axes.axvspan(curve.close[0].p, curve.close[-1].p, color=GREY, alpha=0.12, linewidth=0)
    axes.axhline(0, color=GREY, linewidth=0.7)
    axes.set(xlabel="prune ratio p", ylabel="loss, difference (nats)")
    axes.legend()
