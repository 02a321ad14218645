"""Run stages here, one after the other."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    whole, twins = Whole(preview(plans, contents=False)), dict[str, Path]()
    with ExitStack() as held, _old_objects_left_alone():
        for run, _ in plans:
            held.enter_context(run.held())
        for run, stages in plans:
            run.resources.shown = whole
            with run.resources.stopping.on_signals():
                for stage in stages:
                    run.make(stage, twins)
                    run.resources.stopping.end("the same command continues with what is not done")
            run.restore()


@contextmanager
def _old_objects_left_alone() -> Iterator[None]:
    """Within, the collector of reference cycles looks only at objects that are made within.

    Every stage collects what the one before left, as a Trainer leaves its model; the modules of torch and
    transformers are a million objects, and looking at them took half a second each time.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _check_order(stages: Sequence[Stage]) -> None:
    made: set[str] = set()
    for stage in stages:
        if missing := {need.name for need in stage.needs} - made:
            raise ValueError(f"{stage.name} needs {sorted(missing)}, which do not come before it")
        made.add(stage.name)
