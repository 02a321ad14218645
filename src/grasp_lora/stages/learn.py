"""The prune ratio p* is learned (GRASP Sec. 3.3)."""

from pathlib import Path
from typing import Any

from grasp_lora.workspace.about import about_learning
from grasp_lora.workspace.passes import passes_of_learning
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work
from grasp_lora.workspace.training import enough_steps, learn

__all__ = ["LEARN"]


def run(resources: Resources, folder: Path, **given: Any) -> None:
    """See `workspace.training.learn`."""
    learn(resources, folder, **given)


LEARN = Work(run, ready=enough_steps, passes=passes_of_learning, about=about_learning, resumes=True)
