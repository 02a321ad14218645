"""What runs would do before they do it: stages that are done, equal to others or new, and their passes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.ratios import PruneRatio
from grasp_lora.workspace.changes import wrong_with
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.records import Done, RunPlan
from grasp_lora.workspace.stage import Stage, fingerprint, flat, resolve
from grasp_lora.workspace.unfinished import PARTIAL, begun_in

__all__ = ["Planned", "plan_of", "preview"]


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage of a run that was not started.

    Attributes:
        run: The run's folder.
        name: The stage's.
        work: The name of its work.
        state: "done"; "changed", where it was done with other inputs, or "damaged", where its files are not
            as it left them, so that only `force` makes it again; "shared" with one that comes before it;
            "unfinished", where it was begun alike; or "new".
        passes: Example passes at most, forward and backward; 0 where no model works.
    """

    run: Path
    name: str
    work: str
    state: str
    passes: int

    @property
    def to_make(self) -> bool:
        """Whether it takes time, once it may be made."""
        return self.state in ("changed", "damaged", "unfinished", "new")


def preview(plans: Sequence[tuple[RunDirectory, Sequence[Stage]]], *, contents: bool = True) -> list[Planned]:
    """All stages in the order in which they would be made; rows are read, and what is done is hashed.

    Args:
        contents: Whether finished stages are hashed; else only their notes can be damaged.
    """
    seen: set[str] = set()
    planned = []
    for run, stages in plans:
        before, states = _Before(run), dict[str, str]()
        for stage in stages:
            given = {key: fingerprint(value, before) for key, value in stage.given.items()}  # type: ignore[arg-type]
            inputs = json.dumps([stage.work.name, flat(given)], sort_keys=True, default=str)
            key = before.keys[stage.name] = hashlib.sha256(inputs.encode()).hexdigest()
            if run.is_done(stage.name):
                state = _state(run, stage, states, contents)
                if stage.derived and state != "done":  # a report is made again without being asked
                    state = "new"
            elif key in seen:
                state = "shared"
            else:
                state = "unfinished" if _goes_on(run, stage) else "new"
            seen.add(key)
            states[stage.name] = state
            passes = _passes(stage, before)
            planned.append(Planned(run.root, stage.name, stage.work.name, state, passes))
    return planned


def plan_of(run: RunDirectory, stages: Sequence[Stage], methods: Sequence[str]) -> RunPlan:
    """What a run will make, for who watches it; rows are read, nothing else is."""
    before = _Before(run)
    passes = {stage.name: _passes(stage, before) for stage in stages}
    return RunPlan(passes, tuple(methods), {stage.name: stage.work.name for stage in stages})


def _state(run: RunDirectory, stage: Stage, states: Mapping[str, str], contents: bool) -> str:
    folder = run.path(stage.name)
    if all(states[need.name] == "done" for need in stage.needs):
        with suppress(GraspError):  # what it would be given cannot be read
            wrong = wrong_with(folder, run.inputs(stage), contents=contents)
            return wrong.state if wrong else "done"
    try:
        Done.read(folder)
    except GraspError:
        return "damaged"
    return "changed"


def _goes_on(run: RunDirectory, stage: Stage) -> bool:
    """Whether what was begun is the same stage, as far as can be known now."""
    left = begun_in(run.path(stage.name + PARTIAL))
    try:
        return left is not None and left.inputs == run.inputs(stage)
    except GraspError:  # it needs what is not done
        return False


def _passes(stage: Stage, before: "_Before") -> int:
    return stage.work.passes(**resolve(stage.given, before))  # type: ignore[arg-type]


class _Before:
    """A run directory as stages see it when none was made: each stands for what it would be given."""

    def __init__(self, run: RunDirectory) -> None:
        self.resources, self._run = run.resources, run
        self.keys: dict[str, str] = {}

    def path(self, name: str) -> Path:
        return self._run.path(name)

    def results(self, name: str) -> str:
        return self.keys[name]

    made = results

    def chosen(self, name: str) -> PruneRatio | None:
        return None

    def done(self, name: str) -> Any:
        return Done()
