"""Quality against cost, and what was forgotten of the source's language."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from grasp_lora.reporting.blocks import Block, Figure
from grasp_lora.reporting.drawing import BLUE, COLOURS, PINK
from grasp_lora.reporting.found import Found, MethodResult

_MARKERS = "oooooooossssssss^^^^^^^^DDDDDDDD"  # another one for each turn of the colours


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
    from matplotlib.ticker import LogLocator

    axes = canvas.subplots()
    for (one, passes), colour, marker in zip(paid, cycle(COLOURS), _MARKERS, strict=False):
        loss = one.spread("test_loss")
        how = {"color": colour, "marker": marker, "linestyle": "none", "capsize": 2, "label": one.title}
        axes.errorbar(passes, loss.mean, yerr=loss.std, **how)
    axes.set(xscale="log", xlabel="example passes", ylabel="test loss (nats)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    canvas.legend(loc="outside right upper")


def _draw_kept(canvas: Any, kept: Sequence[tuple[MethodResult, float]], own: float | None) -> None:
    axes = canvas.subplots()
    ordered = sorted(kept, key=lambda pair: -pair[1])
    for y, (_, loss) in enumerate(ordered):
        axes.plot(loss, y, "o", color=BLUE, markersize=6)
    if own is not None:
        axes.axvline(own, color=PINK, linestyle=":", linewidth=1.4)
    axes.set_yticks(range(len(ordered)), [one.title for one, _ in ordered])
    axes.set(xlabel="loss (nats per token)", ylim=(-0.6, len(ordered) - 0.4))
