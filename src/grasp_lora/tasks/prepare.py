"""Tasks by name, prepared on first use."""

from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.tasks.card import find_card, list_cards
from grasp_lora.tasks.prepare_card import prepare_card
from grasp_lora.tasks.task import Task, load_task

__all__ = ["find_task"]


def find_task(name_or_path: str) -> Task:
    """A task that has a card, prepared in the user's cache if it is not there yet, or a task file or folder.

    A card's name wins over a folder of that name; write `./handbook` for the folder.
    """
    path = Path(name_or_path).expanduser()
    if path.name == name_or_path and not path.is_file() and (card := find_card(name_or_path)):
        return load_task(prepare_card(card))
    if not path.exists():
        names = ", ".join(card.name for card in list_cards())
        raise GraspError(
            f"task {name_or_path!r} is neither a built-in task ({names}) nor a task.yaml or a folder with one"
        )
    return load_task(path)
