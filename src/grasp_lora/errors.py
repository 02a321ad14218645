"""The one exception that is the user's to mend."""

from typing import Any, get_args

__all__ = ["GraspError", "check_choice"]


class GraspError(ValueError):
    """Bad input, of a command or of a public class: the message says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2. It is a ValueError, so that who
    calls the library as any other catches what they expect.
    """


def check_choice(name: str, value: object, kind: Any) -> None:
    """Refuse what is none of a `Literal`'s values.

    Raises:
        GraspError: The message names the argument and what it may be.
    """
    if value not in get_args(kind):
        raise GraspError(f"{name} is one of {', '.join(get_args(kind))}; got {value!r}")
