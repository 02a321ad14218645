"""Tasks by name, prepared on first use."""

from pathlib import Path

from grasp_lora.data.card import HANDBOOK, find_card, list_cards
from grasp_lora.data.handbook.book import LANGUAGES, SHARED
from grasp_lora.data.handbook.rows import SOURCE
from grasp_lora.data.prepare import prepare_card
from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import Task, load_task

__all__ = ["find_folder", "find_task"]


def find_task(name_or_path: str, language: str = "") -> Task:
    """A task by its card's name or by its file or folder, see `find_folder`."""
    return load_task(find_folder(name_or_path, language))


def find_folder(name_or_path: str, language: str = "") -> Path:
    """The folder of a task that has a card, prepared in the user's cache if it is not there, or this path.

    A card's name wins over a folder of that name; write `./handbook` for the folder.

    Args:
        language: The target's. The handbook in others than those that share their sections is prepared for
            this one alone.
    """
    path = Path(name_or_path).expanduser()
    if path.name == name_or_path and not path.is_file() and (card := find_card(name_or_path)):
        alone = card.reader == HANDBOOK and language in LANGUAGES.keys() - {SOURCE, *SHARED}
        return prepare_card(card, languages=[language] if alone else None)
    if not path.exists():
        names = ", ".join(card.name for card in list_cards())
        raise GraspError(
            f"task {name_or_path!r} is neither a built-in task ({names}) nor a task.yaml or a folder with one"
        )
    return path
