"""The finished stages of a run, and from what they took how long the others will take."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.workspace.records import DRAWS_FOLDER, Done, RunPlan

__all__ = ["Made", "made_in", "seconds_left"]


@dataclass(frozen=True, slots=True)
class Made:
    """A finished stage: what it took, and when it was finished (seconds since the epoch)."""

    name: str
    seconds: float
    at: float
    policy: str | None
    """Of a learning run, what drew the ratios."""


@lru_cache(maxsize=4096)
def made_in(root: Path, name: str, at: float) -> Made | None:
    """A finished stage never changes, so it is read once; a damaged one is not finished."""
    try:
        done = Done.read(root / name)
    except GraspError:
        return None
    policy = done.inputs.get("policy")
    return Made(name, done.seconds, at, policy if isinstance(policy, str) else None)


def seconds_left(plan: RunPlan, made: Sequence[Made], elapsed: Mapping[str, float]) -> float | None:
    """About how long the planned stages that are not made will take; None before anything is known.

    A stage takes what those of its kind took for each planned pass, or each, where its passes are not known;
    where none of its kind is made, what all took for each pass. Trainings that end early do so in both.

    Args:
        elapsed: Seconds that stages in the making have taken so far.
    """
    kinds: dict[str, _Spent] = {}
    everything = _Spent()
    for one in made:
        if one.name in plan.passes:
            for spent in (everything, kinds.setdefault(_kind(one.name), _Spent())):
                spent.add(one.seconds, plan.passes[one.name])
    if not everything.stages:
        return None
    done, left = {one.name for one in made}, 0.0
    for name, passes in plan.passes.items():
        if name not in done:
            own = kinds.get(_kind(name), _Spent())
            takes = own.estimate(passes) or everything.estimate(passes)
            left += max(0.0, takes - elapsed.get(name, 0.0))
    return left


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


def _kind(name: str) -> str:
    """The folder that a stage and its like are in, whatever the draw."""
    parts = name.split("/")
    return parts[2] if parts[0] == DRAWS_FOLDER and len(parts) > 2 else parts[0]
