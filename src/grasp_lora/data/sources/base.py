"""What a reader is: files become rows, rows become records with an id, texts and groups."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from grasp_lora.errors import GraspError
from grasp_lora.tasks.files import Faults, Row

__all__ = ["BadRow", "Options", "Reader", "Record", "Unsuitable", "document", "one_row", "text", "texts"]

Options = Mapping[str, Any]
"""A card's `options` for its reader."""

MAX_DOCUMENT_BYTES = 1 << 30
"""The largest of the official files that are one JSON document (WikiLingua's English) has half of that."""


class BadRow(Exception):
    """A row that is broken. `kind` is what is counted when a card says that bad rows are dropped."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class Unsuitable(Exception):
    """A sound row that is no example of the task; it is left out and counted under this reason."""


@dataclass(frozen=True, slots=True)
class Record:
    """One example before it has a split."""

    id: str
    values: Mapping[str, str | list[str]]
    """Columns by the names that the card's prompt, target and references use."""
    groups: tuple[str, ...] = ()
    """Records that share one of these, in whatever language, must be in the same split. The last one is the
    cluster that they are in tests of significance."""

    def __post_init__(self) -> None:
        for name in (self.id, *self.groups):
            _check_characters(name, "its name or its group")


@dataclass(frozen=True, slots=True)
class Reader:
    """One source's format.

    `rows` reads an open file; what cannot be read goes to the faults, which also know the file's name.
    `records` makes the records of one row, whether it is from a file or from the hub; it gets the card's
    options and a name for the row, and raises `BadRow` or `Unsuitable`.
    """

    rows: Callable[[BinaryIO, Faults], Iterator[Row]]
    records: Callable[[Mapping[str, Any], Options, str], Iterator[Record]]
    options: tuple[str, ...] = ()
    """The options that it knows."""


def text(values: Mapping[str, Any], column: str) -> str:
    """A column's text, without spaces and byte order marks around it; a blank one is a bad row."""
    if column not in values or values[column] is None:
        raise BadRow("missing column", f"{column!r}; there are {', '.join(map(str, values)) or 'none'}")
    return _stripped(values[column], column)


def texts(values: Mapping[str, Any], column: str) -> list[str]:
    """A column's list of texts: at least one, none blank."""
    found = values.get(column)
    if not isinstance(found, list) or not found:
        raise BadRow("missing column", f"{column!r} is not a list of texts")
    return [_stripped(item, column) for item in found]


def document(file: BinaryIO, faults: Faults) -> bytes:
    """The whole of a file that is one document, up to a limit."""
    content = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise GraspError(
            f"{faults.path} has more than {MAX_DOCUMENT_BYTES >> 20} MiB: this is not such a file"
        )
    return content


def one_row(file: BinaryIO, faults: Faults) -> Iterator[Row]:
    """A file that is one row: `content` is its bytes, `name` its name without the ending."""
    yield Row(1, {"content": document(file, faults), "name": PurePosixPath(faults.path).stem})


def _stripped(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise BadRow("not text", f"the column {column!r} is a {type(value).__name__}")
    if not (stripped := value.strip().strip("\ufeff").strip()):  # a byte order mark in the middle of a file
        raise BadRow("empty text", f"the column {column!r} is empty")
    _check_characters(stripped, f"the column {column!r}")
    return stripped


def _check_characters(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRow("not text", f"{what} has half of a surrogate pair") from None
