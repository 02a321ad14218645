"""The verbs for what comes after a run: look at an adapter, pass it on, publish it."""

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_adapter_verbs"]

ADAPTER_HELP = "a folder, or OWNER/NAME[@REVISION] on the model hub"


def add_adapter_verbs(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verbs to the parser of `grasp`; `common` has the options that every verb has."""

    def add(name: str, verb: object, help: str, example: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = verbs.add_parser(
            name,
            parents=[common],
            help=help,
            description=f"  {example}\n\n{help}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(verb=verb)
        parser.add_argument("adapter", help=ADAPTER_HELP)
        return parser

    look = add(
        "inspect",
        _inspect,
        "Show an adapter's ranks, zeros, norms and effective ranks, from its files alone.",
        "grasp inspect runs/titles/final/seed42 --figure adapter.svg",
    )
    look.add_argument(
        "--parts", type=Path, metavar="FOLDER", help="the merge that it was trained from: zeros by its parts"
    )
    look.add_argument("--figure", type=Path, metavar="FILE", help="draw them, into an .svg or a .png")


def _inspect(arguments: argparse.Namespace) -> None:
    from grasp_lora.merging.inspect import inspect_adapter
    from grasp_lora.reporting.inspection import draw_inspection, inspection_text

    found = inspect_adapter(arguments.adapter, arguments.parts)
    print(inspection_text(found))
    if arguments.figure is not None:
        draw_inspection(found, arguments.figure)
        print(f"\nThe figure: {arguments.figure}")
