"""The one exception that is the user's to mend."""

from typing import Any, get_args

__all__ = ["DAMAGED", "GraspError", "check_choice", "fault"]

DAMAGED = (OSError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What reading a file brings about that holds something else than one of its kind."""


class GraspError(ValueError):
    """Bad input, of a command or of a public class: the message says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2. It is a ValueError, so that who
    calls the library as any other catches what they expect. What a message quotes of a file may be of any
    length: of a line that nobody would read, beginning and end are kept.
    """

    def __init__(self, message: str) -> None:
        lines = message.split("\n")
        if len(lines) > 2 * _LINES:
            lines = [*lines[:_LINES], f"[... {len(lines) - 2 * _LINES:,} lines ...]", *lines[-_LINES:]]
        super().__init__("\n".join(map(_shortened, lines)))


_LINES, _CHARACTERS = 60, 600  # of a message that is too long, so many at either end


def _shortened(line: str) -> str:
    left_out = len(line) - 2 * _CHARACTERS
    return (
        line
        if left_out <= 0
        else f"{line[:_CHARACTERS]}[... {left_out:,} characters ...]{line[-_CHARACTERS:]}"
    )


def check_choice(name: str, value: object, kind: Any) -> None:
    """Refuse what is none of a `Literal`'s values.

    Raises:
        GraspError: The message names the argument and what it may be.
    """
    if value not in get_args(kind):
        raise GraspError(f"{name} is one of {', '.join(get_args(kind))}; got {value!r}")


def fault(error: Exception) -> str:
    """What is wrong with a file; of pydantic's faults the first, without its types and addresses."""
    from pydantic import ValidationError  # which takes long to import where nothing is wrong

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
