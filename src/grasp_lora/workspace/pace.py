"""How long stages take, from what finished ones took: one estimate for whoever asks."""

import math
from dataclasses import dataclass, field

from grasp_lora.workspace.records import DRAWS_FOLDER

__all__ = ["Pace"]


@dataclass(slots=True)
class Pace:
    """What finished stages took for each planned pass, or each, where they have none.

    A stage takes what those in its own folder took; where there are none, those of the same work; where there
    are none either, all. Trainings that end early do so in both.
    """

    _spent: dict[str, "_Spent"] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything was seen."""
        return bool(self._spent)

    def see(self, name: str, work: str, seconds: float, passes: int) -> None:
        """A finished stage: what it took, and its planned passes.

        Args:
            work: The name of its work; "" where that is not known.
        """
        for kind in (*_kinds(name, work), _ALL):
            self._spent.setdefault(kind, _Spent()).add(seconds, passes)

    def alike(self, name: str, work: str, passes: int) -> float | None:
        """Seconds that such a stage takes, by those of its kind; None where there are none."""
        found = (self._spent[kind].estimate(passes) for kind in _kinds(name, work) if kind in self._spent)
        return next((seconds for seconds in found if seconds), None)

    def seconds(self, name: str, work: str, passes: int) -> float | None:
        """Seconds that such a stage takes, if need be by other kinds; None before any is seen."""
        if not self:
            return None
        return self.alike(name, work, passes) or self._spent[_ALL].estimate(passes)


@dataclass(slots=True)
class _Spent:
    """Seconds, planned passes and number of some finished stages."""

    seconds: float = 0.0
    passes: int = 0
    stages: int = 0

    def add(self, seconds: float, passes: int) -> None:
        self.seconds, self.passes, self.stages = self.seconds + seconds, self.passes + passes, self.stages + 1

    def estimate(self, passes: int) -> float:
        """Seconds of one more such stage; 0 where nothing tells."""
        if passes:
            try:
                return passes * self.seconds / self.passes if self.passes else 0.0
            except OverflowError:  # of a damaged plan
                return math.inf
        return self.seconds / self.stages if self.stages and not self.passes else 0.0


_ALL = ""


def _kinds(name: str, work: str) -> list[str]:
    """The folder that a stage and its like are in, whatever the draw, and its work."""
    parts = name.split("/")
    folder = parts[2] if parts[0] == DRAWS_FOLDER and len(parts) > 2 else parts[0]
    return [f"{folder}/", *([work] if work else [])]
