"""The verb that shows what runs found."""

import argparse
from pathlib import Path
from typing import Any

from grasp_lora.cli.verbs import add_verb

__all__ = ["add_report_verbs"]


def add_report_verbs(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb to the parser of `grasp`; `common` has the options that every verb has."""
    parser = add_verb(
        verbs,
        common,
        "report",
        _report,
        "Make a page of what runs found.",
        "grasp report runs/titles-ar",
        "grasp report runs/*                # all of them on one page, and side by side",
        more="With every table and figure as a file; of unfinished runs, too.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--to", type=Path, metavar="DIR", help="default: reports/NAME")


def _report(arguments: argparse.Namespace) -> None:
    from grasp_lora.reporting.report import report

    print(report(arguments.runs, arguments.to))
