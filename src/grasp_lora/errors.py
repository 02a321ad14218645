"""The one exception that is the user's to fix."""

__all__ = ["GraspError"]


class GraspError(Exception):
    """Bad input: the message says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
