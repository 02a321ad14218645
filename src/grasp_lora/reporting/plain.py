"""Numbers, times and other people's texts as a terminal may show them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grasp_lora.cost import span

if TYPE_CHECKING:  # pydantic, which `grasp --help` can do without
    from grasp_lora.ratios import PruneRatio

__all__ = ["ago", "harmless", "ratio", "size", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"


def harmless(text: str) -> str:
    """The text with everything escaped that a terminal might obey, or that would turn what is around it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def ago(seconds: float) -> str:
    """When something was; a clock that is set differently does not matter."""
    return "now" if seconds < 2 else f"{span(seconds)} ago"


def size(count: int) -> str:
    """Bytes."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
    return f"{value / 1000:,.1f} TB"


def ratio(p: "PruneRatio | None") -> str:
    """With three decimals; nothing where there is none."""
    return "" if p is None else f"{p:.3f}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values as bars, from the lowest of these to the highest; a gap for what is not finite."""
    shown = [value / 2 for value in values[-max(width, 1) :]]  # so that no difference overflows
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return BARS[3 if high == low else round((value - low) / (high - low) * (len(BARS) - 1))]

    return "".join(map(bar, shown))
