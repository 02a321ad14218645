"""The verdict, before anything else, and every method beside what it deploys."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from grasp_lora.reporting.blocks import Block, Figure, Text
from grasp_lora.reporting.drawing import BLUE, GREY, INK
from grasp_lora.reporting.found import Found, MethodResult
from grasp_lora.reporting.verdict import interval, verdict_of


def blocks(found: Found) -> Iterator[Block]:
    said = verdict_of(found)
    yield Text("\n\n".join(said.lines))
    if found.missing:
        yield Text(f"Unfinished: not there yet are {', '.join(found.missing)}.")
    deployed = next(one for one in found.results if one.method == said.method)
    others = [one for one in found.results if one is not deployed]
    if others:
        yield Figure(
            "verdict",
            lambda canvas: draw(canvas, deployed, others),
            f"Test loss of each method less that of {deployed.title}, which the verdict deploys, with 95 % "
            "intervals over test rows (and draws, where there are several). Left of the line is better. "
            "Grey: a question asked, nothing to deploy.",
            (8, 1.1 + 0.27 * len(others)),
        )


def draw(canvas: Any, deployed: MethodResult, others: Sequence[MethodResult]) -> None:
    """Differences with their intervals, the worst at the bottom."""
    axes = canvas.subplots()
    loss = deployed.spread("test_loss").mean
    ordered = sorted(others, key=lambda one: -one.spread("test_loss").mean)
    for y, one in enumerate(ordered):
        difference, (low, high) = one.spread("test_loss").mean - loss, interval(one, deployed)
        colour = GREY if one.rows[0].control_of or one.rows[0].is_point else BLUE
        if math.isfinite(low):
            axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(difference, y, "o", color=colour, markersize=5)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(ordered)), [one.title for one in ordered])
    axes.set(xlabel="test loss, difference in nats", ylim=(-0.6, len(ordered) - 0.4))
    axes.grid(visible=False, axis="y")
