"""What a command shows of the work at hand: a bar on a terminal, elsewhere a line every half minute."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from grasp_lora.cost import Cost

__all__ = ["EVERY", "Counter", "Shown"]

logger = logging.getLogger(__name__)

EVERY = 30.0  # seconds from one line to the next

BAR = "{desc}: {n_fmt}/{total_fmt} {bar:10} {elapsed}<{remaining}{postfix}"


class Shown:
    """One work after the other; `workspace.whole.Whole` also knows where each is in a whole run.

    Attributes:
        title: What the work at hand is called.
        doing: How far it is, in words; empty where nobody counts.
        cost: What it takes, up to now; None before it is at work, and where nobody measures.
    """

    def __init__(self) -> None:
        self.title = self.doing = ""
        self.cost: Cost | None = None

    @property
    def bars(self) -> bool:
        """Whether there is somebody to see a bar: on a terminal, or in a notebook."""
        return sys.stderr.isatty() or "ipykernel" in sys.modules

    def begin(self, name: str) -> None:
        """The next work begins, or is found done."""
        self.title, self.doing = name, ""

    def end(self, seconds: float) -> None:
        """The work that was begun is done, after so many seconds."""
        self.say(f"done in {seconds:.0f} s")

    def left(self) -> str:
        """How long all of it will still take, in words; empty where that is nobody's question."""
        return ""

    def brief(self) -> str:
        """The same, for the few columns beside a bar."""
        return ""

    def say(self, what: str) -> None:
        """A line of the log."""
        left = self.left()
        logger.info("%s: %s%s", self.title, what, f"; {left}" if left else "")

    @contextmanager
    def watched(
        self, wait: Callable[[float], bool] | None = None, *, cost: Cost | None = None
    ) -> Iterator[None]:
        """While the block runs, a line every half minute where there are no bars, whatever the block is at.

        Args:
            cost: As `measure` gave it for the block.
            wait: Waits so many seconds, and whether the block ended meanwhile; None: by the clock.
        """
        self.cost = cost
        try:
            if self.bars:
                yield
                return
            ended = threading.Event()
            speaker = threading.Thread(target=self._speak, args=(wait or ended.wait,), daemon=True)
            speaker.start()
            try:
                yield
            finally:
                ended.set()
                speaker.join()
        finally:
            self.doing, self.cost = "", None

    def _speak(self, wait: Callable[[float], bool]) -> None:
        while not wait(EVERY):
            self.say(self.doing or "under way")

    @contextmanager
    def counting(self, total: int, unit: str) -> Iterator["Counter"]:
        """Count to `total` while the block runs."""
        counter = Counter(self, total, unit)
        try:
            yield counter
        finally:
            counter.close()


class Counter:
    """Counts parts of the work at hand.

    Args:
        total: Of its parts, where it began with `start` of them done.
        unit: What a part is called.
        part: Which of several counts of one work it is.
        quiet: Nothing is shown, since another process shows the same.
    """

    def __init__(
        self, shown: Shown, total: int, unit: str, *, start: int = 0, part: str = "", quiet: bool = False
    ) -> None:
        self.count, self._values = start, dict[str, str]()
        self._shown, self._total, self._unit, self._part = shown, total, unit, part
        hidden = quiet or not shown.bars
        self._bar: Any = tqdm(
            total=total, initial=start, unit=unit, desc=self._title(), disable=hidden, bar_format=BAR
        )

    def update(self, parts: int = 1) -> None:
        """So many more are done."""
        self.count += parts
        self._bar.set_description_str(self._title(), refresh=False)
        self._bar.update(parts)
        self._tell()

    def show(self, values: Mapping[str, str]) -> None:
        """The latest of some numbers, by what they are called."""
        self._values |= values
        self._bar.set_postfix(self._values)
        self._tell()

    def close(self) -> None:
        """It is over."""
        self._bar.close()

    def _title(self) -> str:
        return " ".join(filter(None, [self._shown.title, self._part, self._shown.brief()]))

    def _tell(self) -> None:
        values = "".join(f", {name} {value}" for name, value in self._values.items())
        part = f"{self._part}, " if self._part else ""
        self._shown.doing = f"{part}{self._unit} {self.count} of {self._total}{values}"
