"""An inspected adapter as tables for a terminal, and as a figure."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean

from grasp_lora.errors import GraspError
from grasp_lora.merging.inspect import Inspection, Module, PartZeros
from grasp_lora.reporting.plain import harmless
from grasp_lora.reporting.write import markdown

__all__ = ["FIGURES", "draw_inspection", "inspection_text"]

FIGURES = (".svg", ".png")


def inspection_text(found: Inspection) -> str:
    """Overview, then tables by part (of a merged adapter), projection and layer, as Markdown."""
    modules = found.modules
    sections = [
        f"Base model: {harmless(found.base or 'not named')}. {len(modules)} modules, "
        f"rank {_range({one.rank for one in modules})}, scaling {_range({one.scaling for one in modules})}; "
        f"{sum(one.entries for one in modules):,} entries, {_zeros(modules)} of them zero."
    ]
    if found.parts:
        sections.append(
            "Zeros by merged adapter\n\n"
            + markdown(["part", "of A", "of B", "of both"], [_part(part) for part in found.parts])
        )
    headers = ["modules", "rank", "zeros", "norm of delta W", "effective rank"]
    projections = list(dict.fromkeys(one.projection for one in modules))
    rows = [
        [harmless(name), *_row([one for one in modules if one.projection == name])] for name in projections
    ]
    sections.append("By projection\n\n" + markdown(["projection", *headers], rows))
    layers = list(dict.fromkeys(one.layer for one in modules))
    if layers != [None]:
        rows = [[_layer(n), *_row([one for one in modules if one.layer == n])] for n in layers]
        sections.append("By layer\n\n" + markdown(["layer", *headers], rows))
    sections.append(
        "The norm is Frobenius's, of all modules in the row together. The effective rank is exp of the\n"
        "entropy of the normalised singular values (Roy and Vetterli, 2007), the mean over the row's modules."
    )
    return "\n\n".join(sections)


def draw_inspection(found: Inspection, path: Path) -> None:
    """Zeros, norm and effective rank of each module, layer against projection, into an SVG or PNG.

    Raises:
        GraspError: The file's name ends in something else, or it cannot be written.
    """
    from matplotlib.figure import Figure

    if path.suffix not in FIGURES:
        raise GraspError(f"--figure {path}: give a file that ends in {' or '.join(FIGURES)}")
    layers = list(dict.fromkeys(one.layer for one in found.modules))
    projections = list(dict.fromkeys(one.projection for one in found.modules))
    panels: Sequence[tuple[str, Callable[[Module], float]]] = (
        ("share of zeros", lambda one: one.zeros / one.entries),
        ("norm of delta W", lambda one: one.norm),
        ("effective rank of delta W", lambda one: one.effective_rank),
    )
    height = 2.0 + 0.22 * max(len(layers), 6)
    figure = Figure(figsize=(3 * (2.2 + 0.4 * len(projections)), height), layout="constrained")
    for axes, (title, value) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        grid = [[math.nan] * len(projections) for _ in layers]
        for one in found.modules:
            grid[layers.index(one.layer)][projections.index(one.projection)] = value(one)
        image = axes.imshow(grid, aspect="auto", vmin=0.0, vmax=1.0 if title == "share of zeros" else None)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(projections)), projections, rotation=30, ha="right", fontsize=7)
        axes.set_yticks(range(len(layers)), [_layer(n) for n in layers], fontsize=7)
        figure.colorbar(image, ax=axes)
    figure.axes[0].set_ylabel("layer")
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    except OSError as error:
        raise GraspError(f"--figure {path} cannot be written: {error.strerror}") from None


def _row(modules: Sequence[Module]) -> list[str]:
    return [
        str(len(modules)),
        _range({one.rank for one in modules}),
        _zeros(modules),
        f"{math.hypot(*(one.norm for one in modules)):.4g}",
        f"{fmean(one.effective_rank for one in modules):.2f}",
    ]


def _part(part: PartZeros) -> list[str]:
    shares = (
        part.zeros_a / part.entries_a,
        part.zeros_b / part.entries_b,
        (part.zeros_a + part.zeros_b) / (part.entries_a + part.entries_b),
    )
    return [harmless(part.name), *(f"{share:.1%}" for share in shares)]


def _zeros(modules: Sequence[Module]) -> str:
    return f"{sum(one.zeros for one in modules) / sum(one.entries for one in modules):.1%}"


def _layer(number: int | None) -> str:
    return "none" if number is None else str(number)


def _range(values: Iterable[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]:g}" if len(ordered) == 1 else f"{ordered[0]:g} to {ordered[-1]:g}"
