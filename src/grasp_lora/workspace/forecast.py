"""What runs would take before they do it: seconds, memory, disk. No weights are read, nothing is written."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.pace import Pace
from grasp_lora.workspace.preview import Planned, preview
from grasp_lora.workspace.recorded import Finished, alike_in_memory, alike_in_time, finished_in, runs_beside
from grasp_lora.workspace.sizes import Sizes
from grasp_lora.workspace.stage import Stage, inside

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """Stages of runs that were not started, and what those that are to be made would take.

    Attributes:
        seconds: Of each planned stage, 0.0 of those that are not made; None where nothing is known.
        learned_from: Runs whose finished stages told seconds or memory.
        memory: Bytes that the process needs at most; None where nothing tells.
        gpu_memory: Of the GPU, in bytes; 0 where none is used.
        recorded: Whether stages alike told the memory; or else it is worked out from shapes.
        disk: Bytes that the runs' folders grow by, checkpoints included; None where nothing tells.
        free: Bytes that the disk has.
    """

    planned: tuple[Planned, ...]
    seconds: tuple[float | None, ...]
    learned_from: tuple[Path, ...]
    memory: int | None
    gpu_memory: int
    recorded: bool
    disk: int | None
    free: int

    @property
    def known_seconds(self) -> float:
        """Of the stages of which anything is known."""
        return sum(one for one in self.seconds if one is not None)

    @property
    def unknown(self) -> tuple[Planned, ...]:
        """The stages of which nothing is."""
        return tuple(one for one, known in zip(self.planned, self.seconds, strict=True) if known is None)


def forecast(plans: Sequence[tuple[RunDirectory, Sequence[Stage]]]) -> Forecast:
    """Rows are read, the longest are encoded, and the backbone's configuration is read."""
    planned, roots = preview(plans), [run.root for run, _ in plans]
    beside = runs_beside(roots)
    parts = [
        _of_run(run, stages, [one for one in planned if one.run == run.root], [*roots, *beside])
        for run, stages in plans
    ]
    memory, disk = [part.memory for part in parts], [part.disk for part in parts]
    return Forecast(
        planned=tuple(planned),
        seconds=tuple(seconds for part in parts for seconds in part.seconds),
        learned_from=tuple(dict.fromkeys(run for part in parts for run in part.learned_from)),
        memory=None if None in memory else max(one for one in memory if one is not None),
        gpu_memory=max(part.gpu_memory for part in parts),
        recorded=all(part.recorded for part in parts),
        disk=None if None in disk else sum(one for one in disk if one is not None),
        free=min(part.free for part in parts),
    )


def _of_run(
    run: RunDirectory, stages: Sequence[Stage], planned: Sequence[Planned], others: Sequence[Path]
) -> Forecast:
    models = [value for stage in stages for value in inside(stage.given) if isinstance(value, Model)]
    roots = dict.fromkeys([run.root, *others])
    finished = [one for root in roots for one in finished_in(root, models[0])] if models else []
    to_make = [stage for stage, one in zip(stages, planned, strict=True) if one.to_make]
    seconds, told = _seconds(run.root, stages, planned, finished)
    memory, gpu, told_memory = _recorded_memory(to_make, finished)
    sizes = Sizes(run, stages)
    if not told_memory:
        memory, gpu = sizes.memory(to_make)
    return Forecast(
        planned=tuple(planned),
        seconds=seconds,
        learned_from=tuple(root for root in roots if root in {*told, *told_memory}),
        memory=memory,
        gpu_memory=gpu,
        recorded=bool(told_memory),
        disk=sizes.disk(to_make),
        free=_free(run.root),
    )


def _seconds(
    root: Path, stages: Sequence[Stage], planned: Sequence[Planned], finished: Sequence[Finished]
) -> tuple[tuple[float | None, ...], set[Path]]:
    """Seconds of each stage, by the run's own stages of its kind, or else by those of runs beside it."""
    own, beside = Pace(), Pace()
    passes = {one.name: one.passes for one in planned if one.state == "done"}
    for one in finished:
        done = one.done
        if one.run == root and one.name in passes:
            own.see(one.name, done.work, done.seconds, passes[one.name])
        elif one.run != root and alike_in_time(one, stages):
            beside.see(one.name, done.work, done.seconds, done.passes)
    found: list[float | None] = []
    told = set[Path]()
    for plan in planned:
        asked = plan.name, plan.work, plan.passes
        seconds: float | None = 0.0
        if plan.to_make and (seconds := own.alike(*asked)) is not None:
            told.add(root)
        elif plan.to_make and (seconds := beside.alike(*asked)) is not None:
            told |= {one.run for one in finished if one.run != root and one.done.work == plan.work}
        elif plan.to_make and not plan.passes:
            seconds = 0.0  # it reads and writes files
        found.append(seconds)
    return tuple(found), told


def _recorded_memory(
    to_make: Sequence[Stage], finished: Sequence[Finished]
) -> tuple[int | None, int, set[Path]]:
    """The highest peaks of finished stages alike, and their runs: none unless each has one."""
    told, host, gpu = set[Path](), 0, 0
    for stage in to_make:
        if not any(isinstance(value, Model) for value in inside(stage.given)):
            continue
        alike = [one for one in finished if alike_in_memory(one, stage)]
        if not alike:
            return None, 0, set()
        told |= {one.run for one in alike}
        host = max(host, *(one.done.peak_memory_bytes for one in alike))
        gpu = max(gpu, *(one.done.peak_gpu_memory_bytes for one in alike))
    return host, gpu, told


def _free(folder: Path) -> int:
    there = next(above for above in (folder, *folder.parents) if above.exists())
    return shutil.disk_usage(there).free
