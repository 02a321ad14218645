"""Built-in tasks by name, prepared on first use."""

from collections.abc import Callable
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.tasks.handbook import prepare_handbook
from grasp_lora.tasks.task import Task, load_task

__all__ = ["PREPARERS", "find_task"]

PREPARERS: dict[str, Callable[..., Path]] = {"handbook": prepare_handbook}
"""Name -> a function that prepares the task's folder if it must (`out`, `source`, ...) and returns it."""


def find_task(name_or_path: str) -> Task:
    """A built-in task, prepared in the user's cache if it is not there yet, or a task file or folder.

    A built-in name wins over a folder of that name; write `./handbook` for the folder.
    """
    if prepare := PREPARERS.get(name_or_path):
        return load_task(prepare())
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise GraspError(
            f"task {name_or_path!r} is neither a built-in task ({', '.join(PREPARERS)}) "
            "nor a task.yaml or a folder with one"
        )
    return load_task(path)
