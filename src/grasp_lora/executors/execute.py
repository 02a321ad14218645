"""Make the stages of runs, one after the other or several at a time."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from grasp_lora.collecting import old_objects_left_alone
from grasp_lora.errors import GraspError
from grasp_lora.executors.launched import work_together
from grasp_lora.executors.ray import RayWorkers
from grasp_lora.executors.settings import Executor
from grasp_lora.executors.together import Plan, together
from grasp_lora.executors.workers import Workers
from grasp_lora.lm.training import Training
from grasp_lora.ranks import launched
from grasp_lora.workspace.preview import preview
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.whole import Whole

__all__ = ["execute"]


def execute(plans: Sequence[Plan], how: Executor | None = None) -> None:
    """Make every stage of every run; stages that would be equal are made once.

    With one job they are made in the order given, with several as soon as those that they need are done. A
    signal to end is obeyed after the running step of a training, with a checkpoint; the second one at once.

    Raises:
        GraspError: Another process makes one of the runs, or a launcher has started this one and stages are
            to be made side by side.
        ValueError: A stage needs one that does not come before it.
    """
    how = Executor() if how is None else how
    together_with = launched()
    if together_with > 1 and (how.where == "ray" or how.jobs not in (None, 1)):
        raise GraspError(
            f"a launcher's {together_with} processes train each stage together: leave executor to one stage "
            "at a time, or start grasp without the launcher"
        )
    if together_with > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise GraspError(
            "grasp run has the whole backbone on each GPU; FSDP is for GraspCallback in your own Trainer"
        )
    for _, stages in plans:
        _check_order(stages)
    for stage in (stage for _, stages in plans for stage in stages if together_with > 1):
        if isinstance(training := stage.given.get("training"), Training):
            training.each_of(together_with, pairs="beside" in stage.given)
    with ExitStack() as held:
        held.enter_context(_threads(how))
        for run, _ in plans:
            held.enter_context(run.held())
        if how.where == "ray":
            together(plans, held.enter_context(RayWorkers(how)))
        elif how.jobs in (None, 1):
            held.enter_context(old_objects_left_alone())
            if together_with > 1:
                for run, _ in plans:
                    run.elsewhere = work_together
                    run.resources.stopping.patient = True  # the launcher hands on the signal that came
            _one_by_one(plans)
        else:
            together(plans, held.enter_context(Workers(how.jobs, torch.get_num_threads())))
        for run, _ in plans:
            run.restore()


def _one_by_one(plans: Sequence[Plan]) -> None:
    whole, twins = Whole(preview(plans, contents=False)), dict[str, Path]()
    for run, stages in plans:
        run.resources.shown = whole
        with run.resources.stopping.on_signals():
            for stage in stages:
                run.make(stage, twins)
                run.resources.stopping.end("the same command continues with what is not done")


@contextmanager
def _threads(how: Executor) -> Iterator[None]:
    """Within, this process has as many threads as each stage is to have, and says so in `env.json`."""
    before = torch.get_num_threads()
    if how.threads is not None:
        torch.set_num_threads(how.threads)
    elif how.where == "ray":
        torch.set_num_threads(how.cores)
    elif how.jobs is not None:
        torch.set_num_threads(max(1, min(before, _cores() // how.jobs)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_order(stages: Sequence[Stage]) -> None:
    made: set[str] = set()
    for stage in stages:
        if missing := {need.name for need in stage.needs} - made:
            raise ValueError(f"{stage.name} needs {sorted(missing)}, which do not come before it")
        made.add(stage.name)
