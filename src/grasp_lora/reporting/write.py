"""A report's files: a summary that reads well in a terminal, tables, data, figures, and one page."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from grasp_lora.reporting.across import across
from grasp_lora.reporting.blocks import Answered, Block, Bold, Data, Figure, Table, Text, without_controls
from grasp_lora.reporting.drawing import save
from grasp_lora.reporting.found import Found
from grasp_lora.reporting.page import Part, Shown, write_page
from grasp_lora.reporting.sections import SECTIONS, Section
from grasp_lora.workspace.records import SUMMARY_FILE

__all__ = ["latex", "markdown", "write_report", "write_reports"]

TABLES, RUNS = "tables", "runs"
IN_FULL = 8  # runs; of more the page would be too large to read, and to send
QUICK = 1_000  # trials of each test in a report of so many; its signature says so
SHORT = ("Verdict", "Warnings", "Losses", "Answers scored")


def write_report(folder: Path, found: Found) -> None:
    """A run's report: `summary.md`, `report.html`, and every table, figure and number in files."""
    parts: list[Part] = []
    brief: list[str] = []
    for section in SECTIONS:
        blocks = list(section.blocks(found))
        brief += [text for block in blocks if (text := _in_summary(block))]
        parts.append(Part(section.title, write_blocks(folder, blocks)))
    (folder / SUMMARY_FILE).write_text(without_controls("\n\n".join(brief) + "\n"), encoding="utf-8")
    write_page(folder, found.title, parts)


def write_reports(folder: Path, runs: Sequence[Found], left_out: Sequence[str] = ()) -> None:
    """Of several runs: what they show together, and each one's report, of many runs without its figures."""
    if len(runs) > IN_FULL:
        runs = [replace(found, resamples=QUICK) for found in runs]
    missing = [Text("\n".join(["Left out:", "", *(f"- {line}" for line in left_out)]))] if left_out else []
    parts = [Part("Together", write_blocks(folder, [*missing, *across(runs)]))]
    for number, found in enumerate(runs, 1):
        inner: list[Part] = []
        for section in SECTIONS:
            blocks = list(section.blocks(found)) if len(runs) <= IN_FULL else _short(section, found)
            own = folder / RUNS / found.name
            own.mkdir(parents=True, exist_ok=True)
            inner.append(Part(section.title, write_blocks(own, blocks, f"run{number}-")))
        parts.append(Part(found.title, parts=inner, anchor=f"run{number}"))
    write_page(folder, f"{len(runs)} runs" if len(runs) > 1 else runs[0].title, parts)


def _short(section: Section, found: Found) -> list[Block]:
    if section.title not in SHORT:
        return []
    return [block for block in section.blocks(found) if isinstance(block, Text | Table | Data)]


def _in_summary(block: Block) -> str:
    """As Markdown; a figure or data have nothing there."""
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Table):
        return f"{block.title}\n\n{markdown(block.headers, block.rows)}"
    if isinstance(block, Answered):
        lines = [("reference", block.reference), *block.answers]
        return "\n".join([block.why, "", *(f"- {title}: {text}" for title, text in lines)])
    return ""


def write_blocks(folder: Path, blocks: Iterable[Block], prefix: str = "") -> list[Shown]:
    """Each block's files into `folder`; returns what a page shows of them.

    Args:
        prefix: Of what has a name in the page, where several reports are on one.
    """
    shown: list[Shown] = []
    for block in blocks:
        if isinstance(block, Figure):
            shown.append((block, save(block, folder, prefix)))
        elif isinstance(block, Data):
            _write(folder / f"{block.name}.csv", _csv(block.headers, block.rows))
        else:
            if isinstance(block, Table) and block.name:
                (folder / TABLES).mkdir(exist_ok=True)
                file = folder / TABLES / block.name
                _write(file.with_suffix(".csv"), _csv(block.headers, block.rows))
                _write(file.with_suffix(".md"), _in_summary(block) + "\n")
                _write(file.with_suffix(".tex"), latex(block))
            shown.append((block, ""))
    return shown


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column is text, the others numbers."""
    cells = [[_in_markdown(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def _in_markdown(cell: str) -> str:
    text = " ".join(without_controls(cell).split()).replace("|", "\\|")
    return f"**{text}**" if isinstance(cell, Bold) else text


def _csv(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_no_formula(cell) for cell in row] for row in [headers, *rows])
    return text.getvalue()


def _no_formula(cell: Any) -> Any:
    """A text that a spreadsheet would compute stays one, by an apostrophe; signed numbers are numbers."""
    cell = without_controls(cell) if isinstance(cell, str) else cell
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    return cell if _NUMBER.match(cell) else f"'{cell}"


_NUMBER = re.compile(r"[+-]?\d[\d.,%]*( ± [\d.]+)?\**$")


def latex(table: Table) -> str:
    """A table for LaTeX with the package booktabs; Arabic, Chinese and the like want XeLaTeX or LuaLaTeX."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_in_latex, cells)) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_in_latex(table.title.rstrip(':'))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.headers) - 1)}}}",
            r"\toprule",
            line(table.headers),
            r"\midrule",
            *map(line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _in_latex(cell: str) -> str:
    text = "".join(_LATEX.get(c, c) for c in " ".join(without_controls(cell).split()))
    return rf"\textbf{{{text}}}" if isinstance(cell, Bold) else text


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "ρ": r"$\rho$",
    "–": "--",
}
