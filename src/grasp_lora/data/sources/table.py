"""Any table of named columns: JSON Lines, CSV or Parquet."""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from grasp_lora.data.sources.base import BadRow, Options, Reader, Record
from grasp_lora.errors import GraspError
from grasp_lora.tasks.files import Faults, Row, csv_rows, json_rows, parquet_rows

__all__ = ["CSV", "JSONL", "PARQUET"]


def _parquet(file: BinaryIO, faults: Faults) -> Iterator[Row]:
    yield from parquet_rows(faults.path, file)


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    """All columns that are texts or lists of texts.

    Options: `id`, the column that names a row; `group`, the column whose rows belong together, also across
    languages.
    """
    kept = {name: value for name, value in values.items() if isinstance(value, str) or _is_texts(value)}
    group = options.get("group")
    groups = () if group is None else (f"group {_name(values, group)}",)
    yield Record(_name(values, options["id"]) if "id" in options else default_id, kept, groups)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _name(values: Mapping[str, Any], column: str) -> str:
    if not isinstance(column, str):
        raise GraspError(f"the options id and group of a card name a column, and one is {column!r}")
    value = values.get(column)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise BadRow("missing column", f"{column!r}, which names rows or groups")
    return str(value).strip()


JSONL = Reader(json_rows, _records, ("id", "group"))
CSV = Reader(csv_rows, _records, ("id", "group"))
PARQUET = Reader(_parquet, _records, ("id", "group"))
