"""Rows from CSV, JSON Lines and Parquet files; every bad row is named with file and line."""

import csv
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from grasp_lora.errors import GraspError

__all__ = [
    "EXTENSIONS",
    "Faults",
    "Row",
    "csv_rows",
    "json_rows",
    "need_pyarrow",
    "parquet_rows",
    "read_rows",
]

EXTENSIONS = (".csv", ".jsonl", ".parquet")
MAX_LINE_BYTES = 64 << 20
"""A longer line is no example of anything: usually a JSON file that was named .jsonl."""
LISTED_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `line` is where it starts in its file, counted from 1 (in Parquet the row's number)."""

    line: int
    values: Mapping[str, Any]


@dataclass(slots=True)
class Faults:
    """The bad rows of one file, collected so that one error can name several of them."""

    path: Path
    found: dict[int, str] = field(default_factory=dict)
    """Line -> what is wrong with it."""
    rows: int = 0
    """Rows that were read, bad ones included, as far as the reader counts them."""

    def add(self, line: int, why: str) -> None:
        """Note that the row at `line` is bad; the first reason is kept."""
        self.found.setdefault(line, why)

    def check(self) -> None:
        """Raise if any row was bad, listing the first five, or once what is wrong with all of them."""
        if not self.found:
            return
        reasons = set(self.found.values())
        if len(reasons) == 1 and 1 < self.rows == len(self.found):
            raise GraspError(f"{self.path}: all {self.rows:,} rows have the same fault: {reasons.pop()}")
        listed = [f"  {self.path}:{line}: {why}" for line, why in sorted(self.found.items())[:LISTED_FAULTS]]
        if len(self.found) > LISTED_FAULTS:
            listed.append(f"  ... and {len(self.found) - LISTED_FAULTS} more")
        rows = "1 bad row" if len(self.found) == 1 else f"{len(self.found)} bad rows"
        raise GraspError("\n".join([f"{self.path} has {rows}; correct or remove them:", *listed]))


def read_rows(path: Path, faults: Faults) -> Iterator[Row]:
    """The rows of a file, by its extension; rows that cannot be read go to `faults` instead.

    CSV has a header line and commas; JSON Lines one object per line, blank lines are skipped. Both are UTF-8,
    with or without a byte order mark. A missing, empty or unknown kind of file is an error at once.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise GraspError(f"{path}: unknown kind of file {path.suffix!r}; known are {', '.join(EXTENSIONS)}")
    if not path.is_file():
        raise GraspError(f"{path} does not exist or is not a file: check the path in the task's `languages`")
    if path.stat().st_size == 0:
        raise GraspError(f"{path} is empty")
    if path.suffix.lower() == ".parquet":
        yield from parquet_rows(path)
        return
    with path.open("rb") as file:
        yield from (csv_rows if path.suffix.lower() == ".csv" else json_rows)(file, faults)


def _lines(file: BinaryIO, faults: Faults) -> Iterator[tuple[int, str]]:
    """(line number, text); where it is not UTF-8, that is noted in `faults` and replaced in the text."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise GraspError(
                f"{faults.path}:{number}: the line is longer than {MAX_LINE_BYTES >> 20} MiB; "
                "is this one large JSON document rather than a row per line?"
            )
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.add(number, f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8")
            yield number, raw.decode("utf-8", errors="replace")


def json_rows(file: BinaryIO, faults: Faults) -> Iterator[Row]:
    """The objects of an open JSON Lines file; lines that hold none go to `faults`."""
    for number, line in _lines(file, faults):
        if not line.strip():
            continue
        try:
            values = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            faults.add(number, f"not valid JSON ({error.msg}: character {error.pos + 1} of the line)")
            continue
        except (ValueError, RecursionError) as error:
            faults.add(number, f"not valid JSON ({error})")
            continue
        if isinstance(values, dict):
            yield Row(number, values)
        else:
            faults.add(number, f"a JSON {type(values).__name__}, not an object with named columns")


def csv_rows(file: BinaryIO, faults: Faults) -> Iterator[Row]:
    """The rows of an open CSV file with a header line; rows that do not fit it go to `faults`."""
    # The limit belongs to the process: it is raised, and not restored under another reader's feet.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    reader = csv.reader((line for _, line in _lines(file, faults)), strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise GraspError(f"{faults.path}:1: the header is not valid CSV ({error})") from None
    if 1 in faults.found:
        faults.check()
    if len(header) == 1 and (other := {";", "\t", "|"} & set(header[0])):
        raise GraspError(
            f"{faults.path}:1: the header is one column, {header[0]!r}: save the file with commas between "
            f"its fields, not with {other.pop()!r}"
        )
    if not all(header) or len(set(header)) != len(header):
        raise GraspError(f"{faults.path}:1: the header must name each column once, but it is {header}")
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.add(start, f"not valid CSV ({error})")
            continue
        if not cells:
            continue
        if len(cells) == len(header):
            yield Row(start, dict(zip(header, cells, strict=True)))
        else:
            faults.add(start, f"{len(cells)} fields where the header has {len(header)}")


def need_pyarrow(what: str) -> None:
    """Raise where Parquet cannot be read, before anything is downloaded or opened in vain."""
    if importlib.util.find_spec("pyarrow") is None:
        raise GraspError(f'{what} is in Parquet, and pyarrow is missing: pip install "grasp-lora[data]"')


def parquet_rows(path: Path, opened: BinaryIO | None = None) -> Iterator[Row]:
    """The rows of a Parquet file, counted from 1; `opened` is the file where it is not at `path` itself."""
    need_pyarrow(str(path))
    import pyarrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(opened or path) as file:
            for group in range(file.num_row_groups):  # of all together pyarrow keeps what it read
                for batch in file.iter_batches(batch_size=256, row_groups=[group]):
                    for values in batch.to_pylist():
                        number += 1
                        yield Row(number, values)
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is no UTF-8
        raise GraspError(f"{path}: not a readable Parquet file after row {number}: {error}") from None
