"""Where a command is among all the stages that it makes, and about how long the others will take."""

import time
from collections.abc import Callable, Sequence

from grasp_lora.cost import passes_in, span
from grasp_lora.errors import GraspError
from grasp_lora.lm.shown import Shown
from grasp_lora.workspace.pace import Pace
from grasp_lora.workspace.preview import Planned
from grasp_lora.workspace.records import Done

__all__ = ["Whole"]


class Whole(Shown):
    """Stage i of n, and the time that is left, for every line and bar of a run or several.

    Args:
        planned: All stages, in the order in which they will be begun.
        clock: Seconds from any start.
    """

    def __init__(self, planned: Sequence[Planned], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._planned, self._clock = planned, clock
        self._number, self._since, self._over = 0, clock(), False
        self._pace = Pace()
        for one in planned:
            if one.state == "done":
                self._see(one)

    def begin(self, name: str) -> None:
        self._number, self._since, self._over = self._number + 1, self._clock(), False
        assert self._planned[self._number - 1].name == name, "stages are begun in the order of the plan"
        super().begin(f"[{self._number}/{len(self._planned)}] {name}")

    def end(self, seconds: float) -> None:
        now = self._planned[self._number - 1]
        self._pace.see(now.name, now.work, seconds, now.passes)
        self._over = True
        self.say(f"done in {span(seconds)}")

    def left(self) -> str:
        seconds = self.seconds_left()
        if seconds is None:
            return "time left of the whole run: ?"
        return f"about {span(seconds)} left of the whole run" if seconds else ""

    def brief(self) -> str:
        seconds = self.seconds_left()
        return f"({span(seconds)} in all)" if seconds else ""

    def seconds_left(self) -> float | None:
        """To the end of the last stage, about; None before anything is known."""
        first = self._number if self._over else max(self._number - 1, 0)
        made, here, spent = self._at_hand()
        pace = self._pace
        if here and not pace:
            now = self._planned[self._number - 1]
            (pace := Pace()).see(now.name, now.work, spent, here)
        left = 0.0
        for place, one in enumerate(self._planned[first:], first + 1):
            if one.to_make:
                takes = pace.seconds(one.name, one.work, one.passes)
                if takes is None:
                    return None
                if place != self._number:
                    left += takes
                elif 0 < made < one.passes:
                    # The whole stage: what this process has not made as was thought, what it has as it was.
                    whole = takes * (1 - here / one.passes) + spent
                    left += whole * (1 - made / one.passes)
                else:
                    left += max(0.0, takes - spent)
        return left

    def _at_hand(self) -> tuple[int, int, float]:
        """Example passes of the stage at hand, those of this process alone, and its seconds."""
        if not self._number or self._over:
            return 0, 0, 0.0
        made, brought = (0, 0) if self.cost is None else passes_in(self.cost)
        return made, made - brought, self._clock() - self._since

    def _see(self, one: Planned) -> None:
        try:
            done = Done.read(one.run / one.name)
        except GraspError:  # whoever makes the stages says so
            return
        self._pace.see(one.name, one.work, done.seconds, one.passes)
