"""Quality against cost, and what was forgotten of the source's language."""

from collections.abc import Iterator, Sequence
from typing import Any

from grasp_lora.reporting.blocks import Block, Figure
from grasp_lora.reporting.drawing import BLUE, GREY, ORANGE, PINK
from grasp_lora.reporting.found import Found, MethodResult


def blocks(found: Found) -> Iterator[Block]:
    judged = [one for one in found.results if not one.rows[0].is_point]
    paid = [
        (one, cost.passes) for one in judged if (cost := one.rows[0].whole_cost) is not None and cost.passes
    ]
    if len(paid) > 1:
        yield Figure(
            "quality_and_cost",
            lambda canvas: _draw_cost(canvas, paid),
            "Test loss against all example passes behind an adapter, the sources' adapters aside. Below "
            "and to the left is better.",
        )
    for source in dict.fromkeys(name for one in judged for name in one.rows[0].source_losses):
        yield from _retention(source, judged, found.sources.get(source))


def _retention(source: str, judged: Sequence[MethodResult], own: float | None) -> Iterator[Block]:
    kept = [(one, loss) for one in judged if (loss := one.source_loss(source)) is not None]
    if len(kept) > 1:
        line = "" if own is None else ", and with its own adapter (line)"
        yield Figure(
            f"retention_{source}",
            lambda canvas: _draw_kept(canvas, kept, own),
            f"Loss on the dev rows of {source}, the source{line}. What is higher was forgotten.",
            (8, 1.1 + 0.27 * len(kept)),
        )


def _draw_cost(canvas: Any, paid: Sequence[tuple[MethodResult, int]]) -> None:
    axes = canvas.subplots()
    for one, passes in paid:
        loss, row = one.spread("test_loss"), one.rows[0]
        colour = GREY if row.control_of else ORANGE if row.choosing_passes else BLUE
        axes.errorbar(passes, loss.mean, yerr=loss.std, marker="o", color=colour, capsize=2, linewidth=1)
        axes.annotate(one.title, (passes, loss.mean), xytext=(5, 3), textcoords="offset points", fontsize=7.5)
    axes.set(
        xscale="log", xlabel="example passes (orange: some spent on choosing)", ylabel="test loss (nats)"
    )
    axes.margins(x=0.18)


def _draw_kept(canvas: Any, kept: Sequence[tuple[MethodResult, float]], own: float | None) -> None:
    axes = canvas.subplots()
    ordered = sorted(kept, key=lambda pair: -pair[1])
    for y, (_, loss) in enumerate(ordered):
        axes.plot(loss, y, "o", color=BLUE, markersize=6)
    if own is not None:
        axes.axvline(own, color=PINK, linestyle=":", linewidth=1.4)
    axes.set_yticks(range(len(ordered)), [one.title for one, _ in ordered])
    axes.set(xlabel="loss (nats per token)", ylim=(-0.6, len(ordered) - 0.4))
