"""What a run's folder says of the run: its config, versions and hardware, and what it will make."""

import json
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.paths import write_whole
from grasp_lora.workspace.environment import environment
from grasp_lora.workspace.files import write_json
from grasp_lora.workspace.records import CONFIG_FILE, ENVIRONMENT_FILE, RunPlan
from grasp_lora.yamls import parse_yaml

__all__ = ["describe"]


def describe(root: Path, config: str | None, plan: RunPlan | None, *, lost: bool = False) -> None:
    """Write these; with `lost` only what is missing or damaged.

    Raises:
        OSError: The folder cannot be written.
    """
    if config is not None:
        if not (lost and _is_config(root / CONFIG_FILE, config)):
            write_whole(root / CONFIG_FILE, config.encode())
        if not (lost and _is_mapping(root / ENVIRONMENT_FILE)):
            write_json(root / ENVIRONMENT_FILE, environment())
    if plan is not None and not (lost and _is_plan(root)):
        plan.write(root)


def _is_config(path: Path, config: str) -> bool:
    """Whether there is one, be it that of other methods; half of this one is none."""
    try:
        found = path.read_text(encoding="utf-8")
        whole = found == config or not config.startswith(found)
        return whole and isinstance(parse_yaml(found, CONFIG_FILE), dict)
    except (OSError, ValueError):  # GraspError is one, too
        return False


def _is_mapping(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False


def _is_plan(root: Path) -> bool:
    try:
        RunPlan.read(root)
    except GraspError:
        return False
    return True
