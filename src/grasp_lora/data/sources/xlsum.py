"""XL-Sum: JSON Lines of id, url, title, summary and text, three files to a language's .tar.bz2."""

from collections.abc import Iterator, Mapping
from typing import Any

from grasp_lora.data.sources.base import Options, Reader, Record, text
from grasp_lora.tasks.files import json_rows

__all__ = ["XLSUM"]


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    columns = ("url", "text", "summary")
    yield Record(text(values, "id"), {column: text(values, column) for column in columns})


XLSUM = Reader(json_rows, _records)
