"""The verbs `grasp data list`, `prepare` and `show`."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_lora.cli.verbs import add_verb, beginning_with
from grasp_lora.errors import GraspError

if TYPE_CHECKING:
    from grasp_lora.data.card import Card
    from grasp_lora.lm.chat import PromptFormat

__all__ = ["add_data_verbs"]


def add_data_verbs(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    """Add `data` with its verbs to the parser of `grasp`; `common` has the options that every verb has."""
    help = "List, prepare and look at data sets."
    data = subparsers.add_parser("data", help=help, **beginning_with("grasp data list", then=help))
    verbs = data.add_subparsers(required=True, metavar="VERB")
    listed = add_verb(
        verbs,
        common,
        "list",
        _list,
        "List the tasks, their languages and where their data comes from.",
        "grasp data list",
    )
    prepare = add_verb(
        verbs,
        common,
        "prepare",
        _prepare,
        "Make a task's splits, from the hub or from files on disk.",
        "grasp data prepare handbook",
        "grasp data prepare reviews.yaml --from reviews --out prepared",
    )
    prepare.add_argument("task", help="a task's name, or a card (a .yaml file) of your own")
    prepare.add_argument("--from", dest="source", type=Path, help="folder, archive or file; default: the hub")
    prepare.add_argument("--out", type=Path, help="folder to write; default: in the cache")
    prepare.add_argument("--seed", type=int, default=42, help="of the splits; default: 42")
    prepare.add_argument("--languages", type=_codes, help="such as en,ar; default: all that there are")
    for parser in (listed, prepare):
        parser.add_argument(
            "--cards", type=Path, action="append", default=[], help="folder of your own cards"
        )
    show = add_verb(
        verbs,
        common,
        "show",
        _show,
        "Show prompts as the model sees them, lengths, scripts and what was left out.",
        "grasp data show titles.yaml",
        "grasp data show titles.yaml max_length=512",
        "grasp data show prepared --tokenizer packaged:gemma-3-270m",
    )
    show.add_argument("task", type=Path, help="a prepared folder, a task.yaml, or the config of a run")
    show.add_argument("overrides", nargs="*", metavar="key=value", help="of the config, as for grasp run")
    show.add_argument(
        "--tokenizer",
        help="a backbone whose tokens to count: hub name, folder or packaged:NAME; default: the config's",
    )
    show.add_argument(
        "--max-length", type=int, help="tokens of prompt and answer together; default: the config's, or 2200"
    )
    show.add_argument("--examples", type=int, default=1, help="prompts to show of each language")
    show.add_argument("--full", action="store_true", help="show long prompts whole")


def _codes(text: str) -> list[str]:
    if not (codes := [code for code in text.split(",") if code]):
        raise argparse.ArgumentTypeError("name at least one language, such as ar")
    return codes


def _list(arguments: argparse.Namespace) -> None:
    from grasp_lora.data.card import card_folders, list_cards

    cards = list_cards(card_folders(arguments.cards))
    width = max(len(card.name) for card in cards)
    for card in cards:
        print(f"{card.name:<{width}}  {card.about}")
        print(f"{'':<{width}}  {_origin(card)}; {', '.join(card.languages)}; {card.licence}")


def _origin(card: "Card") -> str:
    if card.hub is not None:
        return f"from the hub ({card.hub.repository}) or files"
    return "needs nothing" if card.name == "handbook" else "from files"


def _prepare(arguments: argparse.Namespace) -> None:
    from grasp_lora.data.card import card_folders, find_card, list_cards
    from grasp_lora.data.prepare import prepare_card

    folders = card_folders(arguments.cards)
    card = find_card(arguments.task, folders)
    if card is None:
        there = ", ".join(card.name for card in list_cards(folders))
        raise GraspError(f"{arguments.task!r} is neither a card (a .yaml file) nor one of the tasks: {there}")
    folder = prepare_card(card, arguments.source, arguments.out, arguments.seed, arguments.languages)
    name = folder if folder.is_absolute() else f"./{folder}"  # not a card of that name
    print(f"look at it: grasp data show {name}\nin a config: task: {name}", file=sys.stderr)
    print(folder)


def _show(arguments: argparse.Namespace) -> None:
    from grasp_lora.config.loading import is_config
    from grasp_lora.data.find import find_folder
    from grasp_lora.data.show import Encode, show
    from grasp_lora.experiment import read_config
    from grasp_lora.tasks.task import Task, load_task

    task: Task | Path = arguments.task
    name, revision, max_length, max_new_tokens = arguments.tokenizer, None, 2200, None
    form: PromptFormat = "plain"
    if is_config(arguments.task):
        config = read_config(arguments.task, arguments.overrides)
        task = (
            config.task if isinstance(config.task, Task) else find_folder(config.task, config.target.language)
        )
        read = task if isinstance(task, Task) else load_task(task)
        read.new_tokens(config.target.language)  # which the task must have
        max_new_tokens = config.max_new_tokens
        max_length, form = config.max_length, config.prompt_format
        if name is None:
            name, revision = config.backbone, config.revision
    elif arguments.overrides:
        raise GraspError(f"{arguments.task} is no run's config: it takes no {arguments.overrides[0]}")
    tokenizer: Any = None
    encode: Encode | None = None
    ending = 1
    if name:
        from grasp_lora.lm.chat import answer_in_chat
        from grasp_lora.lm.encoding import encode_prompt

        tokenizer, encode = _tokenizer(name, revision), partial(encode_prompt, prompt_format=form)
        ending = len(answer_in_chat("", tokenizer)) if form == "chat" else 1
    text = show(
        task,
        tokenizer=tokenizer,
        encode=encode,
        ending=ending,
        max_length=arguments.max_length or max_length,
        max_new_tokens=max_new_tokens,
        examples=arguments.examples,
        full=arguments.full,
    )
    print(text, end="")


def _tokenizer(name: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    from grasp_lora.lm.packaged.backbones import resolve_backbone

    try:
        return AutoTokenizer.from_pretrained(
            resolve_backbone(name), revision=revision, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise GraspError(
            f"cannot load the tokenizer of {name!r}: {str(error).splitlines()[0]}\n"
            "Name another backbone with --tokenizer; --tokenizer '' counts characters"
        ) from None
