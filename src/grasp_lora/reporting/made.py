"""The finished stages of a run, and from what they took how long the others will take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.workspace.pace import Pace
from grasp_lora.workspace.records import Done, RunPlan

__all__ = ["Made", "made_in", "seconds_left"]


@dataclass(frozen=True, slots=True)
class Made:
    """A finished stage: what it took, and when it was finished (seconds since the epoch)."""

    name: str
    seconds: float
    at: float
    policy: str | None
    """Of a learning run, what drew the ratios."""
    work: str = ""


@lru_cache(maxsize=4096)
def made_in(root: Path, name: str, at: float) -> Made | None:
    """A finished stage never changes, so it is read once; a damaged one is not finished."""
    try:
        done = Done.read(root / name)
    except GraspError:
        return None
    policy = done.inputs.get("policy")
    return Made(name, done.seconds, at, policy if isinstance(policy, str) else None, done.work)


def seconds_left(plan: RunPlan, made: Sequence[Made], elapsed: Mapping[str, float]) -> float | None:
    """About how long the planned stages that are not made will take; None before anything is known.

    Args:
        elapsed: Seconds that stages in the making have taken so far.
    """
    pace = Pace()
    for one in made:
        if one.name in plan.passes:
            pace.see(one.name, one.work, one.seconds, plan.passes[one.name])
    done, left = {one.name for one in made}, 0.0
    for name, passes in plan.passes.items():
        if name not in done:
            takes = pace.seconds(name, plan.works.get(name, ""), passes)
            if takes is None:
                return None
            left += max(0.0, takes - elapsed.get(name, 0.0))
    return left
