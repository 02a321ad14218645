"""The verb that shows what runs found."""

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_report_verbs"]


def add_report_verbs(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb to the parser of `grasp`; `common` has the options that every verb has."""
    text = "Make a page of what runs found, with every table and figure as a file; unfinished runs, too."
    parser = verbs.add_parser("report", parents=[common], help=text, description=text)
    parser.set_defaults(verb=_report)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, such as runs/titles"
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="default: reports/NAME, named after the first run"
    )


def _report(arguments: argparse.Namespace) -> None:
    from grasp_lora.experiment import report

    print(report(arguments.runs, arguments.to))
