"""A run in one screen of text, which is also Markdown."""

from collections.abc import Mapping, Sequence

__all__ = ["table"]


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that reads well in a terminal; the first column is text, the others numbers."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(headers), rule, *map(line, rows)])


def predictions(rows: Sequence[Mapping[str, str]]) -> str:
    """Answers beside their references, one block per example."""
    return "\n\n".join("\n".join(f"- {name}: {text}" for name, text in row.items()) for row in rows)
