"""A task: files with named columns, and how a row becomes a prompt and a target."""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grasp_lora.errors import GraspError
from grasp_lora.tasks.example import Example
from grasp_lora.tasks.files import Faults, read_rows
from grasp_lora.tasks.kept import keep
from grasp_lora.tasks.prompt import Template, parse_template
from grasp_lora.yamls import parse_yaml

__all__ = ["Split", "Task", "check_disjoint", "load_task"]

Split = Literal["train", "dev", "micro_dev", "test", "pool"]
Tokens = Annotated[int, Field(ge=1)]


class Task(BaseModel):
    """The schema of `task.yaml`, also given inline in a run's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(min_length=1)
    """What messages and reports call it."""
    prompt: str | dict[str, str]
    """A template with `{column}`s, one for all languages or one for each. It always ends in a newline: spaces
    at its end are dropped, and one is added where there is none."""
    target: str
    """The column that the model must write."""
    body: str | None = None
    """The field whose end is cut when a prompt is too long; by default the prompt's first field."""
    id: str | None = None
    """The column that names an example; by default "LANGUAGE/SPLIT:LINE"."""
    group: str | None = None
    """The column that names what an example shares with others, such as its passage."""
    references: str | None = None
    """A column with a list of right answers (in CSV a JSON list) for metrics; by default the target."""
    languages: dict[str, dict[Split, Path]] = Field(min_length=1)
    """The file of each split of each language: train, dev, micro_dev, test, and pool for further rows."""
    max_new_tokens: Tokens | dict[str, Tokens] = 64
    """Most tokens of an answer, end-of-text included, for all languages or for each."""
    metrics: tuple[str, ...] = ()
    """The scores that the task is judged by, most important first."""
    licence: str = ""
    """Of the data; for people."""
    source: str = ""
    """Where the data is from; for people."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("prompt", "max_new_tokens"):
            value = getattr(self, name)
            missing = sorted(self.languages.keys() - value.keys()) if isinstance(value, dict) else []
            if missing:
                raise ValueError(f"{name} has no entry for {', '.join(missing)}")
        for language in self.languages:
            try:
                self.template(language)
            except GraspError as error:
                raise ValueError(str(error)) from None
        return self

    def template(self, language: str) -> Template:
        """The language's prompt template."""
        text = self.prompt if isinstance(self.prompt, str) else self.prompt[language]
        return parse_template(text, self.body)

    def new_tokens(self, language: str) -> int:
        """How many tokens generation may write in this language."""
        self._check_language(language)
        tokens = self.max_new_tokens
        return tokens[language] if isinstance(tokens, dict) else tokens

    def resolved(self, folder: Path) -> Self:
        """The same task with relative paths taken from `folder`."""
        languages = {
            language: {split: folder / path for split, path in splits.items()}
            for language, splits in self.languages.items()
        }
        return self.model_copy(update={"languages": languages})

    def path(self, language: str, split: str) -> Path:
        """The file of a split; an error says which languages and splits there are."""
        self._check_language(language)
        splits = self.languages[language]
        for name, path in splits.items():
            if name == split:
                return path
        there = ", ".join(splits) or "none"
        raise GraspError(f"task {self.name!r} has no {split!r} split for {language!r}; it has {there}")

    def examples(self, language: str, split: str, limit: int | None = None) -> Sequence[Example]:
        """The first `limit` examples of a split, or all; bad rows are one error that lists up to five.

        A row is bad when a column that is needed is missing or is not text, when the target or the prompt's
        body is empty, or when its id was already used in the file.

        Returns:
            A list, or where the rows are many a sequence that reads them as they are asked for.
        """
        path = self.path(language, split)
        faults = Faults(path)
        ids = None if self.id is None else _Ids()
        found = keep(self._read(language, split, limit, faults, ids))
        if ids is not None:
            ids.check(found, faults)
        faults.check()
        if not found and limit != 0:
            raise GraspError(f"{path} has no rows")
        return found

    def _read(
        self, language: str, split: str, limit: int | None, faults: Faults, ids: "_Ids | None"
    ) -> Iterator[Example]:
        """The sound rows; the bad ones go to `faults`."""
        template = self.template(language)
        count = 0
        for row in read_rows(faults.path, faults):
            if limit is not None and count >= limit:
                break
            faults.rows += 1
            if not count and not faults.found:
                self._check_columns(row.values, template, faults.path)
            try:
                example = self._example(row.values, template, f"{language}/{split}:{row.line}")
            except _BadRow as error:
                faults.add(row.line, str(error))
                continue
            if ids is not None:
                ids.add(example.id, row.line)
            count += 1
            yield example

    def _check_language(self, language: str) -> None:
        if language not in self.languages:
            there = ", ".join(self.languages)
            raise GraspError(f"task {self.name!r} has no language {language!r}; it has {there}")

    def _check_columns(self, values: Mapping[str, Any], template: Template, path: Path) -> None:
        named = [("target", self.target), ("id", self.id), ("references", self.references)]
        named += [("group", self.group)]
        named += [(f"prompt {template.text!r}", field) for field in template.fields]
        for where, column in named:
            if column is not None and column not in values:
                there = ", ".join(values) or "none"
                raise GraspError(
                    f"{path} has no column {column!r}, which the {where} of task {self.name!r} names; "
                    f"its columns are {there}"
                )

    def _example(self, values: Mapping[str, Any], template: Template, default_id: str) -> Example:
        fields = {field: _text(values, field) for field in template.fields}
        target = _text(values, self.target).strip()
        for column, text in ((self.target, target), (template.body, fields[template.body])):
            if not text.strip():
                raise _BadRow(f"the column {column!r} is empty")
        prompt, body = template.render(fields)
        return Example(
            id=default_id if self.id is None else _text(values, self.id),
            prompt=prompt,
            target=target,
            references=() if self.references is None else _texts(values, self.references),
            body=body,
            group="" if self.group is None else _text(values, self.group),
        )


def load_task(folder_or_yaml: Path) -> Task:
    """Read `task.yaml`; its relative paths are taken from its own folder."""
    path = folder_or_yaml / "task.yaml" if folder_or_yaml.is_dir() else folder_or_yaml
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise GraspError(f"{path} does not exist: give a task file or a folder with a task.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GraspError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise GraspError(f"{path} must be a mapping with name, prompt, target and languages")
    try:
        return Task.model_validate(values).resolved(path.parent.absolute())
    except ValidationError as error:
        faults = [f"\n  {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise GraspError(f"{path} is not a valid task:{''.join(faults)}") from None


def check_disjoint(splits: Mapping[str, Sequence[Example]]) -> None:
    """Raise if two splits share an example, by its id or by its text (prompt and target).

    The names are the caller's, and splits of several languages may be given together: where ids mean the
    same in every language, as in the handbook, a section that is trained on in one and tested in another is
    found.
    """
    # Only what is in another split, too, can be shared: of the largest one nothing else is remembered.
    largest = max(splits, key=lambda name: len(splits[name]), default="")
    others = (example for name, examples in splits.items() if name != largest for example in examples)
    elsewhere = {hash(key) for example in others for key in _keys(example)}
    owners: dict[tuple[str, ...], tuple[str, str]] = {}
    for name, examples in splits.items():
        for example in examples:
            for key in _keys(example):
                if name == largest and hash(key) not in elsewhere:
                    continue
                owner, other = owners.setdefault(key, (name, example.id))
                if owner != name:
                    same = "same id" if key[0] == "id" else f"same text as {other!r}"
                    raise GraspError(
                        f"the splits {owner!r} and {name!r} share the example {example.id!r} "
                        f"({same}): remove it from one of them"
                    )


def _keys(example: Example) -> tuple[tuple[str, ...], ...]:
    return ("id", example.id), ("text", example.prompt, example.target)


class _Ids:
    """Finds ids that were used twice; it keeps 16 bytes for each row, not the ids."""

    def __init__(self) -> None:
        self.hashes, self.lines = array("q"), array("Q")

    def add(self, name: str, line: int) -> None:
        self.hashes.append(hash(name))
        self.lines.append(line)

    def check(self, examples: Sequence[Example], faults: Faults) -> None:
        """Note in `faults` the examples whose id an earlier one has; they are those that were added."""
        ordered = np.sort(self.hashes)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        first: dict[str, int] = {}
        for place in np.flatnonzero(np.isin(self.hashes, twice)).tolist() if len(twice) else ():
            name, line = examples[place].id, self.lines[place]
            if first.setdefault(name, line) != line:
                faults.add(line, f"the id {name!r} was already used in line {first[name]}")


class _BadRow(Exception):
    """Why a row cannot become an example."""


def _text(values: Mapping[str, Any], column: str) -> str:
    if values.get(column) is None:
        raise _BadRow(f"the column {column!r} {'has no value' if column in values else 'is missing'}")
    value = values[column]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return _checked(value, column)


def _texts(values: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = values.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _BadRow(f"the column {column!r} is not a JSON list of texts") from None
    if not isinstance(value, list) or not value:
        raise _BadRow(f"the column {column!r} is not a list of texts")
    return tuple(_checked(item, column).strip() for item in value)


def _checked(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise _BadRow(f"the column {column!r} is a {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _BadRow(f"the column {column!r} has half of a surrogate pair, which is no character") from None
    return value
