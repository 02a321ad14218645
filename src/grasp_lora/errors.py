"""The one exception that is the user's to mend."""

__all__ = ["GraspError"]


class GraspError(ValueError):
    """Bad input, of a command or of a public class: the message says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2. It is a ValueError, so that who
    calls the library as any other catches what they expect.
    """
