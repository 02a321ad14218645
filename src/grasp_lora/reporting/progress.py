"""How far a run is, from the files in its folder alone, whoever makes it and whether anybody does."""

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grasp_lora.control.rounds import ROUNDS_FILE, Round
from grasp_lora.errors import GraspError
from grasp_lora.lm.logs import TENSORBOARD_FOLDER
from grasp_lora.ratios import PruneRatio
from grasp_lora.reporting.logs import config_of, mapping_of, names_of, rounds_so_far, verdict_lines
from grasp_lora.reporting.made import Made, made_in, seconds_left
from grasp_lora.reporting.making import Making, making_in
from grasp_lora.reporting.scored import Scored, scored_in
from grasp_lora.workspace.files import changed_at
from grasp_lora.workspace.records import (
    CONFIG_FILE,
    DRAWS_FOLDER,
    ENVIRONMENT_FILE,
    REPORT,
    Done,
    LearnedRatio,
    RunPlan,
)
from grasp_lora.workspace.unfinished import PARTIAL, REPLACED

__all__ = ["BETWEEN", "LOST_CONFIG", "Learning", "Progress", "has_lost_config", "is_run", "progress_of"]

BETWEEN = 10.0  # seconds that one stage may take to follow another


LOST_CONFIG = f"{{}} is a run without its {CONFIG_FILE}: the `grasp run` that made it writes that again"


@dataclass(frozen=True, slots=True)
class Learning:
    """The learning run to show: the one in the making, or else the run's own; `p` is p*, once chosen.

    Where each adapter has a ratio of its own, `adapters` are their names.
    """

    name: str
    rounds: tuple[Round, ...]
    p: PruneRatio | None
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """All of it at one moment, `now`.

    Attributes:
        state: "done", "running", or "stopped": it is not done, and nobody is at it.
        started: When the newest stage was started; None where that is not known.
        stages: That the whole run has, and how many of these are done; 0 where it was not said.
        methods: That will be evaluated, and how many of these are.
        left: Seconds to the end, about, from what finished stages took; None where nothing is known.
        verdict: Of the report, where the run is done.
        unreadable: Finished stages whose record or evaluation is damaged.
    """

    folder: Path
    now: float
    state: str
    changed: float
    started: float | None
    about: str
    made: tuple[Made, ...]
    making: tuple[Making, ...]
    learning: Learning | None
    scored: tuple[Scored, ...]
    stages: tuple[int, int]
    methods: tuple[int, int]
    left: float | None
    verdict: tuple[str, ...]
    unreadable: int

    @property
    def best(self) -> Scored | None:
        """The lowest dev loss, of methods that one could deploy where there is one; NaN is the highest."""
        known = [one for one in self.scored if one.dev_loss is not None]
        known = [one for one in known if one.candidate] or known
        return min(known, key=lambda one: one.order, default=None)


def is_run(folder: Path) -> bool:
    """Whether a run has begun in the folder."""
    return os.path.isfile(folder / CONFIG_FILE)  # False, too, where one may not look


def has_lost_config(folder: Path) -> bool:
    """Whether there is a run in the folder, but for its config."""
    left = (ENVIRONMENT_FILE, RunPlan.FILE, f"{REPORT}/{Done.FILE}")
    return not is_run(folder) and any(os.path.isfile(folder / name) for name in left)


def progress_of(folder: Path, now: float | None = None) -> Progress:
    """How far the run in the folder is.

    Files may appear, grow and vanish meanwhile.

    Raises:
        GraspError: It is no run's folder.
    """
    if has_lost_config(folder):
        raise GraspError(LOST_CONFIG.format(folder))
    if not is_run(folder):
        raise GraspError(f"{folder} is no run: it has no {CONFIG_FILE}, which `grasp run` writes first")
    now = time.time() if now is None else now
    plan, config = _plan(folder), config_of(folder)
    stages, partials = _stages(folder, plan.passes)
    found = [made_in(folder, *one) for one in stages.items()]
    made = tuple(sorted((one for one in found if one is not None), key=lambda one: one.at))
    making = tuple(one for name in partials if (one := making_in(folder, name, now)) is not None)
    scored, unreadable = scored_in(folder, {one.name: one.at for one in made})
    started = changed_at(folder / CONFIG_FILE)
    changed = max([started, *(one.at for one in made), *(one.changed for one in making)])
    names = {one.name for one in made}
    planned = (len(names & plan.passes.keys()), len(plan.passes))
    if any(one.alive for one in making):
        state = "running"
    elif _is_done(made, plan):
        state = "done"
    else:
        state = "running" if now - changed < BETWEEN else "stopped"
    methods = _methods(plan, config, scored, names)
    if plan.passes:
        since = max([started, *(one.at for one in made)])  # of several at a time one may have begun before
        left = seconds_left(plan, made, {one.name: now - since for one in making if one.alive})
    else:
        each = sum(one.seconds for one in made) / methods[0] if methods[0] else None
        left = None if each is None else each * (methods[1] - methods[0])
    return Progress(
        folder=folder,
        now=now,
        state=state,
        changed=changed,
        started=started if started else None,
        about=_about(config),
        made=made,
        making=making,
        learning=_learning(folder, made, making, _adapters(config)),
        scored=scored,
        stages=planned,
        methods=methods,
        left=None if state == "done" else left,
        verdict=verdict_lines(folder / REPORT) if state == "done" else (),
        unreadable=unreadable + found.count(None),
    )


def _stages(root: Path, planned: Collection[str]) -> tuple[dict[str, float], list[str]]:
    """Finished stages and when they were, and the folders of others.

    Links are followed to what is planned alone, as whoever makes the run follows them: others may lead
    anywhere, and in circles.
    """
    done, partials, waiting = dict[str, float](), [], [""]
    while waiting:
        place = waiting.pop()
        for name, linked in _folders(root / place):
            path = f"{place}/{name}" if place else name
            if linked and not any(f"{one}/".startswith(f"{path}/") for one in planned):
                continue
            if name.endswith(PARTIAL):
                partials.append(path)
            elif REPLACED not in name and name != TENSORBOARD_FOLDER:
                waiting.append(path)
                if at := changed_at(root / path / Done.FILE):
                    done[path] = at
    return done, sorted(partials)


def _folders(folder: Path) -> Iterator[tuple[str, bool]]:
    """Names, and whether each is a link, to whatever."""
    try:
        with os.scandir(folder) as entries:
            found = [(one.name, one.is_symlink(), one.is_dir(follow_symlinks=False)) for one in entries]
    except OSError:  # it was renamed or removed meanwhile, or is a link to a file
        return
    yield from ((name, linked) for name, linked, is_folder in found if linked or is_folder)


def _learning(
    folder: Path, made: Sequence[Made], making: Sequence[Making], adapters: tuple[str, ...]
) -> Learning | None:
    for now in making:
        if now.alive and now.rounds:
            return Learning(now.name, now.rounds, None, adapters)
    own = [one for one in made if one.policy and not one.name.startswith(f"{DRAWS_FOLDER}/")]
    own.sort(key=lambda one: one.policy == "uniform")  # draws that learn nothing come last
    for one in own:
        if (folder / one.name / ROUNDS_FILE).exists():
            return Learning(one.name, rounds_so_far(folder / one.name), _ratio(folder / one.name), adapters)
    return None


def _ratio(folder: Path) -> PruneRatio | None:
    try:
        return LearnedRatio.read(folder).p
    except GraspError:
        return None


def _plan(folder: Path) -> RunPlan:
    try:
        return RunPlan.read(folder)
    except GraspError:  # a command that makes single stages writes none, nor did earlier versions
        return RunPlan({})


def _is_done(made: Sequence[Made], plan: RunPlan) -> bool:
    """Whether there is a report, and all that was planned. Times say nothing: a copy has others."""
    names = {one.name for one in made}
    return REPORT in names and names >= plan.passes.keys()


def _methods(
    plan: RunPlan, config: Mapping[str, Any], scored: Sequence[Scored], made: set[str]
) -> tuple[int, int]:
    """How many methods are evaluated, and how many will be."""
    found = {one.method for one in scored}
    if plan.methods:
        return len(found & {*plan.methods}), len(plan.methods)
    wanted = [*names_of(config, "methods"), *mapping_of(config, "variants")]
    # One name may stand for several methods that begin with it, or for a stage that evaluates nothing.
    others = [*(found - {*wanted}), *(name.rpartition("/")[2] for name in made)]
    done = [
        one for one in wanted if one in found or any(o.startswith((f"{one}_", f"{one}-")) for o in others)
    ]
    return len(done), len(wanted)


def _adapters(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the adapters of the merge are called, in its order."""
    sides = [*_sources(config), config.get("target")]
    return tuple(
        str(one.get("name") or one.get("language"))
        for one in sides
        if isinstance(one, dict) and one.get("adapter") != "none"
    )


def _sources(config: Mapping[str, Any]) -> list[Any]:
    sources = config.get("source")
    return sources if isinstance(sources, list) else [sources]


def _about(config: Mapping[str, Any]) -> str:
    """The languages and the backbone."""
    target = config.get("target")
    names = [str(one.get("name") or one.get("language")) for one in _sources(config) if isinstance(one, dict)]
    to = target.get("language") if isinstance(target, dict) else None
    languages = f"{'+'.join(names)} to {to}" if names and to else ""
    return " · ".join(filter(None, [languages, str(config.get("backbone") or "")]))
