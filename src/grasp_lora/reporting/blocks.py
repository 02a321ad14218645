"""What a report is made of: texts, tables, figures, answers, and the data behind them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unicodedata import category

from grasp_lora.metrics.score import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "Answered",
    "Block",
    "Bold",
    "Data",
    "Figure",
    "Table",
    "Text",
    "show_p_value",
    "show_range",
    "show_spread",
    "show_stars",
    "without_controls",
]

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, or several, or a list of lines that begin with a dash."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts: the first column is text, the others are numbers; `Bold` cells stand out."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    name: str = ""
    """Of its files; "" has none of its own."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture that `draw` puts on an empty canvas."""

    name: str
    draw: Callable[["Canvas"], None]
    caption: str
    size: tuple[float, float] = (8.0, 4.2)
    """Inches."""


@dataclass(frozen=True, slots=True)
class Data:
    """Numbers as they are, for other programs: one CSV file."""

    name: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Answered:
    """One test example and several answers to it."""

    why: str
    """What it was chosen for."""
    prompt: str
    reference: str
    answers: Sequence[tuple[str, str]]
    """Methods' titles, and theirs."""
    language: str


Block = Text | Table | Figure | Data | Answered


def show_spread(value: Spread, digits: int) -> str:
    """Mean and deviation as a table shows them."""
    std = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{std}"


def show_range(values: Sequence[float]) -> str:
    """The least to the most, or the one that there is, as a table shows them; "" for none."""
    return " to ".join(map(str, sorted({min(values), max(values)}))) if values else ""


def show_p_value(value: float) -> str:
    """A p-value as a table shows it."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def show_stars(p_value: float, adjusted: float) -> str:
    """`*` below 0.05, `**` also after Holm's correction for how many were compared."""
    return "**" if adjusted < SIGNIFICANT else "*" if p_value < SIGNIFICANT else ""


class Bold(str):
    """A cell that stands out: the best of its column."""

    __slots__ = ()


def without_controls(text: str) -> str:
    """A text of the data's without what would steer a terminal; line breaks, tabs and all spaces stay."""
    return "".join(c for c in text if c in _KEPT or c.isprintable() or category(c) == "Zs")


_KEPT = "\n\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # the last two some scripts need
