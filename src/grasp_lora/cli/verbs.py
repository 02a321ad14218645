"""How each file of this room adds its verbs: one way, with help that starts with an example."""

import argparse
import textwrap
from collections.abc import Callable
from typing import Any

__all__ = ["add_verb", "beginning_with"]


def beginning_with(*examples: str, then: str) -> dict[str, Any]:
    """What an `ArgumentParser` is given so that its help starts with examples.

    Args:
        examples: Whole commands, each beginning with `grasp`; the first is the one that most will want.
        then: What the command does, in a sentence or two.
    """
    lines = "".join(f"  {example}\n" for example in examples)
    return {
        "description": f"{lines}\n{textwrap.fill(then, 78)}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def add_verb(
    verbs: Any,
    common: argparse.ArgumentParser,
    name: str,
    verb: Callable[[argparse.Namespace], None],
    help: str,
    *examples: str,
    more: str = "",
) -> argparse.ArgumentParser:
    """Add a verb to the parser of `grasp`, or of a group such as `grasp data`.

    Args:
        verbs: What `add_subparsers` returned.
        common: The options that every verb has.
        verb: What runs it.
        help: Its line in the list of verbs, a sentence of at most 54 characters.
        examples: Commands that its own help starts with, at least one; see `beginning_with`.
        more: What its own help says further.

    Returns:
        The verb's parser, for its arguments.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, parents=[common], help=help, **beginning_with(*examples, then=f"{help} {more}".strip())
    )
    parser.set_defaults(verb=verb)
    return parser
