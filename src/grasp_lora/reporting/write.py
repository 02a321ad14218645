"""A report's files: the summary as Markdown that reads well in a terminal, data as CSV, figures."""

import csv
from collections.abc import Sequence
from pathlib import Path

from grasp_lora.reporting.blocks import Data, Figure, Table, Text
from grasp_lora.reporting.found import Found
from grasp_lora.reporting.sections import SECTIONS
from grasp_lora.workspace.records import SUMMARY_FILE

__all__ = ["markdown", "write_report"]


def write_report(folder: Path, found: Found) -> None:
    """Every section's blocks into `folder`."""
    parts = []
    for section in SECTIONS:
        for block in section(found):
            if isinstance(block, Text):
                parts.append(block.text)
            elif isinstance(block, Table):
                parts.append(f"{block.title}\n\n{markdown(block.headers, block.rows)}")
            elif isinstance(block, Figure):
                for suffix in block.formats:
                    block.draw(folder / f"{block.name}.{suffix}")
            else:
                _write_csv(folder, block)
    (folder / SUMMARY_FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column is text, the others numbers."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(headers), rule, *map(line, rows)])


def _write_csv(folder: Path, data: Data) -> None:
    with (folder / f"{data.name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(data.headers)
        writer.writerows(data.rows)
