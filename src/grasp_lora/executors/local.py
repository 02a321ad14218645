"""Run stages here, one after the other."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.preview import preview
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.whole import Whole

__all__ = ["execute"]


def execute(plans: Sequence[tuple[RunDirectory, Sequence[Stage]]]) -> None:
    """Make every stage of every run, in the order given; stages that would be equal are made once.

    A signal to end is obeyed after the running step of a training, with a checkpoint; the second one at once.

    Raises:
        GraspError: Another process makes one of the runs.
        ValueError: A stage needs one that does not come before it.
    """
    for _, stages in plans:
        _check_order(stages)
    whole, twins = Whole(preview(plans)), dict[str, Path]()
    with ExitStack() as held:
        for run, _ in plans:
            held.enter_context(run.held())
        for run, stages in plans:
            run.resources.shown = whole
            with run.resources.stopping.on_signals():
                for stage in stages:
                    run.make(stage, twins)
                    run.resources.stopping.end("the same command continues with what is not done")


def _check_order(stages: Sequence[Stage]) -> None:
    made: set[str] = set()
    for stage in stages:
        if missing := {need.name for need in stage.needs} - made:
            raise ValueError(f"{stage.name} needs {sorted(missing)}, which do not come before it")
        made.add(stage.name)
