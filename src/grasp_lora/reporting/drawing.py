"""Figures: one style, fonts for many scripts, and one picture as SVG in a file, SVG in a page, and PNG."""

import logging
import re
import warnings
from collections.abc import Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from grasp_lora.reporting.blocks import Figure, without_controls

__all__ = ["BLUE", "COLOURS", "GREEN", "GREY", "INK", "ORANGE", "PINK", "rewards_in_colour", "save"]

logger = logging.getLogger(__name__)

INK = "#1f2329"  # of text and axes; in a page it is the page's own
BLUE, ORANGE, GREEN, PINK, GREY = "#2f7fc1", "#d9822b", "#2a9d7f", "#c46aa5", "#8a8f98"
COLOURS = (BLUE, ORANGE, GREEN, PINK, "#b8a129", "#5ab4d6", GREY, "#a35f3f")  # seen on light and on dark
_FAMILIES = (
    "DejaVu Sans",
    "Noto Sans Arabic",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
)
_FILES = re.compile(r"NotoSans(CJK|Arabic|Devanagari|Thai)-Regular\.\w+$")
_STYLE = {
    "text.parse_math": False,  # texts are the data's: a dollar is a dollar
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9.5,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",  # texts stay texts: the viewer's fonts and its setting from right to left
}


def save(figure: Figure, folder: Path, prefix: str = "") -> str:
    """Write a figure as `NAME.svg` and `NAME.png`; returns the SVG element for a page, in the page's ink.

    Args:
        prefix: Of the element's ids, where a page has several of this name.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    name = re.sub(r"[^\w.+-]", "-", figure.name)  # it may have a language's or a method's
    style: dict[str, Any] = {**_STYLE, "font.family": list(_families()), "svg.hashsalt": figure.name}
    with matplotlib.rc_context(style), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        canvas = Canvas(figsize=figure.size, layout="constrained")
        FigureCanvasAgg(canvas)
        figure.draw(canvas)
        text = StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        canvas.savefig(folder / f"{name}.png", dpi=150, facecolor="white")
    if missing := sorted({found[0] for one in said if (found := _GLYPH.search(str(one.message)))}):
        _say_once(tuple(missing[:5]))
    svg = without_controls(text.getvalue())  # which XML does not allow, either
    svg = svg[svg.index("<svg") :]
    white = '<rect width="100%" height="100%" fill="#ffffff"/>'
    start = svg.index(">") + 1
    (folder / f"{name}.svg").write_text(svg[:start] + white + svg[start:], encoding="utf-8")
    return _for_a_page(svg, re.sub(r"\W", "-", f"{prefix}{figure.name}"))


_GLYPH = re.compile(r"\\N\{[^}]*\}|U\+[0-9A-F]+")


@cache
def _say_once(missing: tuple[str, ...]) -> None:
    logger.warning(
        "a figure has characters that no installed font has (%s): install Noto Sans for its script (Debian: "
        "fonts-noto-core, fonts-noto-cjk)",
        ", ".join(missing),
    )


@cache
def _families() -> tuple[str, ...]:
    """The installed families of ours; those installed since matplotlib last listed its fonts count, too."""
    from matplotlib import font_manager as fonts

    if not set(_FAMILIES) <= set(fonts.get_font_names()):
        for path in fonts.findSystemFonts():
            if _FILES.search(path):
                fonts.fontManager.addfont(path)
    known = set(fonts.get_font_names())
    return tuple(name for name in _FAMILIES if name in known)


def _for_a_page(svg: str, name: str) -> str:
    """With ids of its own, the page's ink and as wide as there is room."""
    used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace(INK, "currentColor")


def rewards_in_colour(canvas: Any, axes: Any, probes: Sequence[tuple[float, float, float]]) -> None:
    """Probed ratios, (x, p, relative reward), as dots in colours about zero."""
    x, p, rewards = zip(*probes, strict=True)
    limit = max(map(abs, rewards)) or 1.0
    how = {"cmap": "RdYlGn", "vmin": -limit, "vmax": limit, "edgecolors": "0.4", "linewidths": 0.5}
    dots = axes.scatter(x, p, c=rewards, s=34, zorder=3, label="probed ratios", **how)
    bar = canvas.colorbar(dots, label="relative reward (nats per target token)", pad=0.02, aspect=30)
    bar.outline.set_visible(False)
