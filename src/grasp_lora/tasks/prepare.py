"""Built-in tasks by name, prepared on first use."""

from collections.abc import Callable
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.tasks.card import find_card, list_cards
from grasp_lora.tasks.handbook import prepare_handbook
from grasp_lora.tasks.prepare_card import prepare_card
from grasp_lora.tasks.task import Task, load_task

__all__ = ["PREPARERS", "find_task"]

PREPARERS: dict[str, Callable[..., Path]] = {"handbook": prepare_handbook}
"""Name -> a function that prepares the task's folder if it must (`out`, `source`, ...) and returns it.

Tasks that are no more than a card need none: `prepare_card` prepares them."""


def find_task(name_or_path: str) -> Task:
    """A built-in task, prepared in the user's cache if it is not there yet, or a task file or folder.

    Built-in tasks are those that have a card. Their name wins over a folder of that name; write `./handbook`
    for the folder.
    """
    if prepare := PREPARERS.get(name_or_path):
        return load_task(prepare())
    if "/" not in name_or_path and (card := find_card(name_or_path)):
        return load_task(prepare_card(card))
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise GraspError(
            f"task {name_or_path!r} is neither a built-in task ({', '.join(_names())}) "
            "nor a task.yaml or a folder with one"
        )
    return load_task(path)


def _names() -> list[str]:
    return [card.name for card in list_cards()]
