"""What a method's model costs to deploy, with its adapter beside the backbone and merged into it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grasp_lora.lm.deployment import measure_deployment
from grasp_lora.lm.encoding import Limits
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.records import MeasuredDeployment
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work

__all__ = ["DEPLOY"]


def deploy(
    resources: Resources,
    folder: Path,
    *,
    model: Model,
    adapter: Path | None,
    examples: Sequence[Example],
    limits: Limits,
    **_: Any,
) -> None:
    """Measure one adapter (None: the bare backbone) on a few examples.

    Leaves `MeasuredDeployment`. Timings are this machine's at that moment.
    """
    measured = measure_deployment(lambda: resources.backbone(model), adapter, examples, limits)
    MeasuredDeployment(**asdict(measured)).write(folder)


DEPLOY = Work(deploy)
