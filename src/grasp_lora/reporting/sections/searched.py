"""Dev loss, and where they were asked for dev metrics, at each point of a grid (ALM Figs. 4 and 7)."""

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from grasp_lora.ratios import in_order
from grasp_lora.reporting.blocks import Block, Data, Figure
from grasp_lora.reporting.drawing import COLOURS
from grasp_lora.reporting.found import Found

DEV_LOSS = "dev_loss"


def blocks(found: Found) -> Iterator[Block]:
    rows = [
        (method, at, metric, value)
        for method, points in found.searched.items()
        for at, scores in in_order(points)
        for metric, value in scores.items()
    ]
    if rows:
        yield Data("points", ("method", "at", "metric", "dev"), rows)
    metrics = dict.fromkeys(metric for _, _, metric, _ in rows if metric != DEV_LOSS)
    if metrics:
        yield Figure(
            "scores_over_p",
            lambda canvas: _draw(canvas, found, list(metrics)),
            "Dev scores after training at each ratio or threshold of a grid; the dotted line is what was "
            "chosen (ALM Fig. 4).",
            (8, 1.0 + 2.2 * len(metrics)),
        )


def _draw(canvas: Any, found: Found, metrics: list[str]) -> None:
    chosen = {one.method: one.rows[0] for one in found.results}
    panels = canvas.subplots(len(metrics), squeeze=False, sharex=True)[:, 0]
    for axes, metric in zip(panels, metrics, strict=True):
        for (name, points), colour in zip(found.searched.items(), cycle(COLOURS), strict=False):
            seen = {at: s[metric] for at, s in in_order(points) if metric in s and isinstance(at, float)}
            axes.plot(list(seen), list(seen.values()), "o-", color=colour, markersize=4, label=name)
            row = chosen.get(name)
            at = None if row is None else row.p if row.threshold is None else row.threshold
            if isinstance(at, float):
                axes.axvline(at, color=colour, linestyle=":", linewidth=1.4)
        axes.set(ylabel=metric)
        numbers = [at for points in found.searched.values() for at in points if isinstance(at, float)]
        if max(numbers, default=1.0) > 1:
            axes.set_xscale("log")
    panels[0].legend()
    panels[-1].set_xlabel("prune ratio p, or threshold")
