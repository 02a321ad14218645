"""Numbers, times and other people's texts as a terminal may show them."""

from collections.abc import Sequence

__all__ = ["ago", "harmless", "ratio", "size", "span", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"


def harmless(text: str) -> str:
    """The text with everything escaped that a terminal might obey, or that would turn what is around it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def span(seconds: float) -> str:
    """A length of time, as roughly as one wants to know it."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


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


def ratio(p: float | None) -> str:
    """With three decimals; nothing where there is none."""
    return "" if p is None else f"{p:.3f}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values as bars, from the lowest of these to the highest."""
    shown = values[-max(width, 1) :]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    if high == low:
        return BARS[3] * len(shown)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in shown)
