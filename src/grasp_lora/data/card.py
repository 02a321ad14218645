"""Task cards: a data set's languages, prompts, sizes and where it comes from, in one YAML file each."""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from grasp_lora.data.sources import READERS
from grasp_lora.errors import GraspError
from grasp_lora.settings import FolderName
from grasp_lora.tasks.prompt import parse_template
from grasp_lora.yamls import parse_yaml

__all__ = ["ANY", "Card", "Hub", "Language", "Sizes", "card_folders", "find_card", "list_cards", "load_card"]

ANY = "*"
"""The entry under `languages` for every language that has none of its own."""
HANDBOOK = "handbook"
"""The one reader that is a program of its own: it follows translations, and knows its prompts itself."""

Count = Annotated[int, Field(ge=0)]


class _Node(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sizes(_Node):
    """Rows per split; the defaults are those of GRASP's targets (Table 1)."""

    train: Count | Literal["all"] = 50
    dev: Count | Literal["all"] = 50
    micro_dev: Count = 16
    test: Count | Literal["all"] = 100
    pool: Count = 400
    """At most so many rows that are left over, for runs that want more training rows than `train` has."""


class Language(_Node):
    """One language of a data set."""

    name: str = ""
    """What the source's files call it; by default its code."""
    config: str = ""
    """What the hub calls it; by default `name`."""
    sizes: Sizes = Sizes()


class Hub(_Node):
    """Where the data set is on the model hub, as Parquet: `CONFIG/SPLIT/0000.parquet`."""

    repository: str
    revision: str = "refs/convert/parquet"
    archive: str = ""
    """The original archive in the repository's main revision, for when there is no conversion; {name}."""
    looked_up: str
    note: str = ""


class Card(_Node):
    """The schema of a card."""

    name: FolderName
    about: str
    source: str
    """Who made the data, to cite them."""
    licence: str
    obtain: str
    """What to get, from whom, and what to give to --from."""
    reader: str
    files: tuple[str, ...] = ()
    """Patterns of the source's files, see `data.sources.patterns`."""
    options: dict[str, Any] = {}
    hub: Hub | None = None
    prompt: str | dict[str, str] = ""
    target: str = ""
    body: str | None = None
    references: str | None = None
    max_new_tokens: int | dict[str, int] = 64
    metrics: tuple[str, ...] = ()
    split: Literal["official", "pool", "auto"] = "auto"
    """Whether the source's own splits are kept and sampled from, or everything is pooled and split anew by
    group. auto: official where the files say which split they are, pool where none does."""
    unique: tuple[str, ...] = ()
    """Columns in which no two rows may be equal: of those that are, test is kept before dev before train."""
    bad_rows: Literal["error", "drop"] = "error"
    notes: str = ""
    """Where papers are silent, what was decided."""
    languages: dict[str, Language] = Field(min_length=1)
    """By code, which names a folder and files of what is prepared."""

    @field_validator("languages")
    @classmethod
    def _are_names(cls, languages: dict[str, Language]) -> dict[str, Language]:
        for code in languages:
            if code != ANY and not re.fullmatch(r"[\w-]+", code):
                raise ValueError(
                    f"the language {code!r} names a folder: letters, digits, _ and - may be in it"
                )
        return languages

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.reader == HANDBOOK:
            return self
        if self.reader not in READERS:
            raise ValueError(f"unknown reader {self.reader!r}; there are {', '.join(sorted(READERS))}")
        known = READERS[self.reader].options
        if unknown := sorted(set(self.options) - set(known)):
            raise ValueError(
                f"the reader {self.reader} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}"
            )
        if not self.prompt or not self.target or not self.files:
            raise ValueError("prompt, target and files are needed")
        try:
            for prompt in self.prompts.values():
                parse_template(prompt, self.body)
        except GraspError as error:
            raise ValueError(str(error)) from None
        if self.split == "pool" and any("all" in (s.dev, s.test) for s in self._sizes()):
            raise ValueError("where everything is pooled, only train can have the size all")
        return self

    @property
    def prompts(self) -> dict[str, str]:
        """Language -> template; under `ANY` where one is for all."""
        return self.prompt if isinstance(self.prompt, dict) else {ANY: self.prompt}

    def language(self, code: str) -> Language:
        """A language's entry; an error where the card has none for it."""
        if entry := self.languages.get(code, self.languages.get(ANY)):
            return entry
        there = ", ".join(self.languages)
        raise GraspError(f"the task {self.name!r} has no language {code!r}; it has {there}")

    def template(self, code: str) -> str:
        """A language's prompt template; an error where the card has none for it."""
        if prompt := self.prompts.get(code, self.prompts.get(ANY)):
            return prompt
        raise GraspError(
            f"the task {self.name!r} has no prompt in {code!r}: write a card of your own with "
            f"`extends: {self.name}` and a prompt in that language"
        )

    def columns(self, code: str) -> tuple[str, ...]:
        """The columns of texts that are needed in a language: for its prompt, the target, and `unique`."""
        fields = parse_template(self.template(code), self.body).fields
        return tuple(name for name in dict.fromkeys((*fields, self.target, *self.unique)) if name != "id")

    def new_tokens(self, code: str) -> int:
        """How many tokens an answer in this language may have."""
        tokens = self.max_new_tokens
        return tokens.get(code, tokens.get(ANY, 64)) if isinstance(tokens, dict) else tokens

    def _sizes(self) -> list[Sizes]:
        return [entry.sizes for entry in self.languages.values()]


def load_card(path: Path, folders: Sequence[Path] = ()) -> Card:
    """Read a card.

    `extends: NAME_OR_PATH` starts from another card (a name is looked up in `folders` and among the built-in
    ones, a path is relative to this file); mappings are merged, and a language set to null is taken out.
    """
    values = _read(path, folders)
    languages = values.get("languages")
    if isinstance(languages, dict):
        values["languages"] = {code: entry for code, entry in languages.items() if entry is not None}
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        faults = [f"\n  {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise GraspError(f"{path} is not a valid card:{''.join(faults)}") from None


def card_folders(more: Sequence[Path] = ()) -> list[Path]:
    """Where cards of the user's own are: `more`, then the folders in $GRASP_CARDS."""
    named = [Path(name) for name in os.environ.get("GRASP_CARDS", "").split(os.pathsep) if name]
    for folder in (*more, *named):
        if not folder.is_dir():
            raise GraspError(f"{folder} is not a folder of cards: correct --cards or $GRASP_CARDS")
    return [*more, *named]


def find_card(name_or_path: str, folders: Sequence[Path] | None = None) -> Card | None:
    """The card of this name, the user's own before the built-in one, or the card in this file; else None."""
    folders = card_folders() if folders is None else folders
    for path in _card_files(folders):
        if path.stem == name_or_path:
            return load_card(path, folders)
    path = Path(name_or_path)
    return load_card(path, folders) if path.suffix in (".yaml", ".yml") and path.is_file() else None


def list_cards(folders: Sequence[Path] | None = None) -> list[Card]:
    """All cards, the user's own first; of two with one name the first counts."""
    folders = card_folders() if folders is None else folders
    cards: dict[str, Card] = {}
    for path in _card_files(folders):
        cards.setdefault(path.stem, load_card(path, folders))
    return list(cards.values())


def _card_files(folders: Sequence[Path]) -> list[Path]:
    with as_file(files("grasp_lora.data") / "cards") as built_in:
        return [path for folder in (*folders, built_in) for path in sorted(folder.glob("*.yaml"))]


def _read(path: Path, folders: Sequence[Path], seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), f"the card {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise GraspError(f"the card {path} cannot be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise GraspError(f"the card {path} must be a mapping with name, reader, prompt, target, languages")
    base = values.pop("extends", None)
    if base is None:
        return values
    beside, own = path.parent / str(base), Path(os.path.realpath(path))
    named = [file for file in _card_files(folders) if file.stem == base and file.resolve() != own]
    found = [beside] if os.path.isfile(beside) else named  # which is no error for any text
    if not found or own in seen:
        raise GraspError(f"the card {path} extends {base!r}, which is no other card")
    return _merged(_read(found[0], folders, (*seen, own)), values)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
