"""Whom halving compared after how many steps, whom it kept, and how sure that is."""

from collections.abc import Iterator
from typing import Any

from grasp_lora.control.halving import HalvingResult, Rung
from grasp_lora.control.noise import Z
from grasp_lora.ratios import in_order
from grasp_lora.reporting.blocks import Block, Data, Figure, Table, Text
from grasp_lora.reporting.drawing import BLUE, COLOURS, GREY
from grasp_lora.reporting.found import Found


def blocks(found: Found) -> Iterator[Block]:
    rows = [
        (name, draw, rung.step, f"{p:g}", rung.mean(p), *rung.behind(p), p in rung.kept)
        for name, draws in found.halved.items()
        for draw, one in enumerate(draws)
        for rung in one.rungs
        for p, _ in in_order(rung.losses)
    ]
    if not rows:
        return
    yield Data("rungs", ("method", "draw", "step", "p", "loss", "behind", "standard_error", "kept"), rows)
    name, draws = next(iter(found.halved.items()))
    one, title = draws[0], next(result.title for result in found.results if result.method == name)
    yield Text(_said(title, one))
    if not one.rungs:
        return
    title = f"{title}: loss above the leader's (nats) on the rows that judged, ± 1.96 errors:"
    yield Table(title, *_table(one), "rungs")
    if all(isinstance(p, float) for p in one.rungs[0].losses):
        yield Figure(
            "rungs",
            lambda canvas: _draw(canvas, one),
            "Loss under fixed masks after so many steps of the same rows, less the leader's, with 95 % "
            "intervals of paired differences. Filled: those that went on.",
        )


def _said(title: str, one: HalvingResult) -> str:
    p = one.best_ratio
    if not one.rungs:
        return f"{title}: p = {p:g} was the only candidate."
    first = one.rungs[0]
    text = (
        f"{title}: halving kept p = {p:g} of {len(first.losses)} candidates, which were compared after "
        f"{' and '.join(str(rung.step) for rung in one.rungs)} steps; its training went on from there."
    )
    return text if (doubt := one.doubt) is None else f"{text} {doubt[0].upper()}{doubt[1:]}."


def _table(one: HalvingResult) -> tuple[list[str], list[list[str]]]:
    ratios = [p for p, _ in in_order(one.rungs[0].losses)]
    rows = []
    for rung in one.rungs:
        count = len(next(iter(rung.losses.values())))
        rows.append([str(rung.step), str(count), *(_cell(rung, p) for p in ratios)])
    return ["steps", "rows", *(f"p = {p:g}" for p in ratios)], rows


def _cell(rung: Rung, p: Any) -> str:
    if p not in rung.losses:
        return ""
    mean, error = rung.behind(p)
    shown = "0" if p == rung.leader else f"{mean:+.4f} ± {Z * error:.4f}"
    return f"**{shown}**" if p in rung.kept else shown


def _draw(canvas: Any, one: HalvingResult) -> None:
    axes = canvas.subplots()
    for rung, colour in zip(one.rungs, (BLUE, *COLOURS[1:]), strict=False):
        ratios = [p for p, _ in in_order(rung.losses)]
        behind = [rung.behind(p) for p in ratios]
        errors = [Z * error if error < float("inf") else 0.0 for _, error in behind]
        means = [mean for mean, _ in behind]
        axes.errorbar(ratios, means, yerr=errors, color=colour, fmt="o-", markersize=4, capsize=3,
                      markerfacecolor="white", label=f"after {rung.step} steps")  # fmt: skip
        kept = [(p, mean) for p, mean in zip(ratios, means, strict=True) if p in rung.kept]
        axes.plot(*zip(*kept, strict=True), "o", color=colour, markersize=6, zorder=5)
    axes.axhline(0, color=GREY, linewidth=0.7)
    axes.set(xlabel="prune ratio p", ylabel="loss above the leader's (nats)")
    axes.legend()
