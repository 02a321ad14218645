"""A signal ends a training after the running step, with a checkpoint; the second one at once."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupted", "Stopping"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal was closed

logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """The user, or a scheduler, ended it.

    Attributes:
        signal: Its number.
    """

    def __init__(self, number: int, said: str) -> None:
        super().__init__(said)
        self.signal = number

    def __reduce__(self) -> tuple[Any, ...]:
        return Interrupted, (self.signal, str(self))


class Stopping:
    """Whether somebody asked to end, and whether anybody will look.

    Attributes:
        requested: The number of the signal; 0 while nobody asked.
        patient: A second signal is no haste: somebody else sends one as well.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.requested, self.patient = 0, patient
        self._looked_at = False

    def end(self, said: str) -> None:
        """Raise if somebody asked.

        Raises:
            Interrupted: Somebody did.
        """
        if self.requested:
            raise Interrupted(self.requested, said)

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Within, somebody looks at `requested` often: a signal raises nothing the first time."""
        self._looked_at = True
        try:
            yield
        finally:
            self._looked_at = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within, signals ask before they end anything; in another thread nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.requested = 0
        before = {
            number: signal.signal(number, self._ask)
            for number in _SIGNALS
            # A shell's background job ignores Ctrl-C, and what was not set from Python cannot be set back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        again = "the same command continues with what is not done"
        before, self.requested = self.requested, number
        if (before and not self.patient) or not self._looked_at:
            raise Interrupted(number, again)
        bar = "\n" if sys.stderr.isatty() else ""  # which may stand in this line
        if self.patient:
            return
        logger.warning("%sending after this step, with a checkpoint; once more ends at once", bar)
