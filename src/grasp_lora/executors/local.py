"""Run stages here, one after the other."""

from collections.abc import Sequence
from pathlib import Path

from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.preview import preview
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.whole import Whole

__all__ = ["execute"]


def execute(plans: Sequence[tuple[RunDirectory, Sequence[Stage]]]) -> None:
    """Make every stage of every run, in the order given; stages that would be equal are made once.

    Raises:
        ValueError: A stage needs one that does not come before it.
    """
    for _, stages in plans:
        made: set[str] = set()
        for stage in stages:
            if missing := {need.name for need in stage.needs} - made:
                raise ValueError(f"{stage.name} needs {sorted(missing)}, which do not come before it")
            made.add(stage.name)
    whole, twins = Whole(preview(plans)), dict[str, Path]()
    for run, stages in plans:
        run.resources.shown = whole
        for stage in stages:
            run.make(stage, twins)
