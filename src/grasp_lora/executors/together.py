"""Stages side by side, each as soon as those that it needs are done.

This process holds the runs, makes the stages' folders, renames them and writes what is known of them; only
their work is done elsewhere, so whoever does it can be lost, or come back late, and nothing is made twice.
"""

import copy
import logging
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from grasp_lora.cost import span
from grasp_lora.executors.queue import Queue
from grasp_lora.lm.shown import Shown
from grasp_lora.stopping import Stopping
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.pace import Pace
from grasp_lora.workspace.preview import Planned, preview
from grasp_lora.workspace.records import Done
from grasp_lora.workspace.stage import Stage

__all__ = ["Elsewhere", "Numbered", "Plan", "needs_of", "together"]

logger = logging.getLogger(__name__)

Plan = tuple[RunDirectory, Sequence[Stage]]
LOOK = 0.2  # seconds from one look at signals to the next


class Elsewhere(Protocol):
    """Who does the work of stages, several at a time."""

    jobs: int

    def fits(self, stage: Stage, run: RunDirectory, running: Collection[Stage]) -> bool:
        """Whether there is room for it beside those that are being made."""

    def work(self, run: RunDirectory, stage: Stage, partial: Path, inputs: Mapping[str, Any]) -> Done:
        """`run.work(stage, partial, inputs)`, done elsewhere; called from several threads."""

    def end(self, number: int) -> None:
        """Ask all that is running to end as this signal does."""


class Numbered(Shown):
    """Lines that say which of all stages they are of; several stages have no use for bars."""

    bars = False

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def begin(self, name: str) -> None:
        super().begin(f"[{self.place}] {name}")


@dataclass(eq=False)
class _One:
    """A stage that is to be made."""

    run: RunDirectory
    stage: Stage
    planned: Planned
    place: str
    key: str = ""
    """Equal for stages that would be equal; known when those that it needs are done."""


@dataclass
class _Together:
    elsewhere: Elsewhere
    waiting: dict[int, _One]
    queue: Queue
    total: int
    running: dict[Future[Path], tuple[int, _One]] = field(default_factory=dict)
    twins: dict[str, Path] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)

    def fits(self, number: int) -> bool:
        """Whether it can be made now: no equal one is being made, and there is room."""
        one = self.waiting[number]
        stages = [other.stage for _, other in self.running.values()]
        keys = {other.key for _, other in self.running.values()}
        one.key = one.key or one.run.key(one.stage)
        return one.key not in keys and (
            one.planned.state == "done" or self.elsewhere.fits(one.stage, one.run, stages)
        )

    def start(self, threads: ThreadPoolExecutor) -> None:
        """Begin what can be made now."""
        while len(self.running) < self.elsewhere.jobs:
            if (number := self.queue.take(self.fits)) is None:
                return
            one = self.waiting.pop(number)
            run = copy.copy(one.run)
            run.resources = replace(run.resources, shown=Numbered(one.place), commits={})
            run.elsewhere = self.elsewhere.work
            self.running[threads.submit(run.make, one.stage, self.twins)] = number, one

    def finish(self, future: Future[Path]) -> None:
        """Note what has ended.

        Raises:
            Exception: What ended it.
        """
        number, one = self.running.pop(future)
        future.result()
        self.queue.made(number)
        done = one.run.done(one.stage.name)
        self.pace.see(one.stage.name, one.planned.work, done.seconds, one.planned.passes)
        if one.planned.to_make and self.waiting:
            made = self.total - len(self.waiting) - len(self.running)
            logger.info("%d of %d stages are done%s", made, self.total, self.left())

    def left(self) -> str:
        """How long the others will take, if nobody waits for anybody."""
        others = [*self.waiting.values(), *(one for _, one in self.running.values())]
        seconds = [
            self.pace.seconds(one.planned.name, one.planned.work, one.planned.passes)
            for one in others
            if one.planned.to_make
        ]
        known = [one for one in seconds if one is not None]
        return f"; about {span(sum(known) / self.elsewhere.jobs)} left" if any(known) else ""


def needs_of(plans: Sequence[Plan]) -> list[list[int]]:
    """Of each stage of all plans, in their order, the numbers of those that it needs."""
    found: list[list[int]] = []
    for _, stages in plans:
        numbers = {stage.name: len(found) + place for place, stage in enumerate(stages)}
        found += [[numbers[need.name] for need in stage.needs] for stage in stages]
    return found


def together(plans: Sequence[Plan], elsewhere: Elsewhere) -> None:
    """Make every stage of every run, as many at a time as `elsewhere` takes.

    Raises:
        Exception: What ended the first stage that failed; the others were asked to end, with checkpoints.
        Interrupted: A signal came, and what was running has ended.
    """
    planned = preview(plans, contents=False)
    listed = [(run, stage) for run, stages in plans for stage in stages]
    waiting = {
        number: _One(run, stage, plan, f"{number + 1}/{len(listed)}")
        for number, ((run, stage), plan) in enumerate(zip(listed, planned, strict=True))
    }
    state = _Together(elsewhere, waiting, Queue(needs_of(plans)), len(listed))
    stopping = plans[0][0].resources.stopping
    with (
        ThreadPoolExecutor(elsewhere.jobs) as threads,
        stopping.on_signals(),
        stopping.looked_at(),
        _ended_together(state, stopping),
    ):
        while state.waiting or state.running:
            state.start(threads)
            ended, _ = wait(state.running, timeout=LOOK, return_when=FIRST_COMPLETED)
            if stopping.requested:
                _end(state, stopping.requested)
                stopping.end("the same command continues with what is not done")
            for future in ended:
                state.finish(future)


def _end(state: _Together, number: int) -> None:
    """Ask all that is running to end, and wait; who asks once more does not wait for their steps."""
    try:
        state.elsewhere.end(number)
        wait(state.running)
    except KeyboardInterrupt:
        state.elsewhere.end(signal.SIGKILL)
        wait(state.running)
        raise


@contextmanager
def _ended_together(state: _Together, stopping: Stopping) -> Iterator[None]:
    """Where the block fails, what is running is asked to end, or where somebody has no patience ended."""
    try:
        yield
    except Exception:
        stopping.requested = stopping.requested or signal.SIGTERM  # the next signal is the second
        _end(state, signal.SIGTERM)
        raise
    except BaseException:
        _end(state, signal.SIGKILL)
        raise
