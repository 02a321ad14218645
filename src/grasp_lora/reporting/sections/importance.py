"""Which layers, projections and source adapters matter, and what pruning took from each (ALM Fig. 5)."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from grasp_lora.reporting.blocks import Block, Data, Figure
from grasp_lora.reporting.found import Found
from grasp_lora.reporting.trained import by_site

Cells = Mapping[tuple[str, int], float]
"""(Projection and adapter, layer) -> a mean over A and B."""


def blocks(found: Found) -> Iterator[Block]:
    names = [found.reference, *(name for name in found.trained if name != found.reference)]
    shown = next((name for name in names if name in found.trained and found.trained[name].importance), None)
    rows = [
        (name, kind, layer, projection, factor, adapter, value)
        for name, one in found.trained.items()
        for kind, units in (("importance", one.importance), ("norm_pruned", one.pruned.norm_by_unit))
        for layer, projection, factor, adapter, value in by_site(units)
    ]
    if rows:
        yield Data(
            "importance", ("method", "value_of", "layer", "projection", "factor", "adapter", "value"), rows
        )
    if shown is None or not _cells(found.trained[shown].importance):
        return
    trained = found.trained[shown]
    title = next(one.title for one in found.results if one.method == shown)
    yield Figure(
        "importance",
        lambda canvas: _draw(canvas, _cells(trained.importance), "mean importance", "viridis"),
        f"{title}: mean importance of each module's entries, by layer, projection and source adapter.",
        (8, 2.6),
    )
    if any(trained.pruned.norm_by_unit.values()):
        yield Figure(
            "pruned",
            lambda canvas: _draw(canvas, _cells(trained.pruned.norm_by_unit), "share of the norm", "magma"),
            f"{title}: what the mask took of a module's squared norm, the mean of A and B. Every unit loses "
            "the same share of its entries; those whose magnitudes are unequal lose little by it.",
            (8, 2.6),
        )


def _cells(units: Mapping[str, float]) -> Cells:
    found: dict[tuple[str, int], list[float]] = {}
    for layer, projection, _, adapter, value in by_site(units):
        found.setdefault((f"{projection} {adapter}".strip(), layer), []).append(value)
    return {key: fmean(values) for key, values in found.items()}


def _draw(canvas: Any, cells: Cells, label: str, colours: str) -> None:
    rows, layers = sorted({row for row, _ in cells}), sorted({layer for _, layer in cells})
    grid = [[cells.get((row, layer), float("nan")) for layer in layers] for row in rows]
    axes = canvas.subplots()
    seen = axes.imshow(grid, aspect="auto", cmap=colours)
    axes.set_yticks(range(len(rows)), rows)
    every = max(1, len(layers) // 16)
    axes.set_xticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])
    axes.set(xlabel="layer")
    axes.grid(visible=False)
    canvas.colorbar(seen, label=label, pad=0.02).outline.set_visible(False)
