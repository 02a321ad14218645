"""What a report is made of: texts, tables, figures, and the data behind them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grasp_lora.metrics.score import Spread

__all__ = ["Block", "Data", "Figure", "Table", "Text", "show_p_value", "show_spread", "show_stars"]

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, or several."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts: the first column is text, the others are numbers."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture: `draw(path)` makes it in the format that the path's suffix names."""

    name: str
    draw: Callable[[Path], None]
    formats: tuple[str, ...] = ("svg",)


@dataclass(frozen=True, slots=True)
class Data:
    """Numbers as they are, for other programs: one CSV file."""

    name: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]


Block = Text | Table | Figure | Data


def show_spread(value: Spread, digits: int) -> str:
    """Mean and deviation as a table shows them."""
    std = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{std}"


def show_p_value(value: float) -> str:
    """A p-value as a table shows it."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def show_stars(p_value: float, adjusted: float) -> str:
    """`*` below 0.05, `**` also after Holm's correction for how many were compared."""
    return "**" if adjusted < SIGNIFICANT else "*" if p_value < SIGNIFICANT else ""
