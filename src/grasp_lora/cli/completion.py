"""`grasp --print-completion bash`: completion of verbs, options and files by the shell."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import shtab

__all__ = ["add_completion", "parsers_of"]


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add the option to the parser of `grasp`, when all verbs are there."""
    shtab.add_argument_to(parser, help="print a script that completes grasp's verbs and options")
    for one in parsers_of(parser).values():
        for action in one._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way


def parsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser and those of its verbs, and of theirs, each by what is typed."""
    return {one.prog: one for one in _parsers(parser)}


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _parsers(one)
