"""WikiLingua: guides of WikiHow, one part (a way to do it) with its steps and their headings a record.

Officially a pickle per language, of {url: {part: {"document": ..., "summary": ...}}}; in languages other than
English with "english_url" and "english_section_name" beside them. Here the same as JSON.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from grasp_lora.data.sources.base import BadRow, Options, Reader, Record, document, text
from grasp_lora.errors import GraspError
from grasp_lora.tasks.files import Faults, Row

__all__ = ["CONVERT", "WIKILINGUA"]

CONVERT = """\
import json, pickle, sys
class Plain(pickle.Unpickler):
    def find_class(self, module, name):
        raise SystemExit(f"not plain data: it wants to run {module}.{name}")
json.dump(Plain(open(sys.argv[1], "rb")).load(), open(sys.argv[2], "w"))
"""
"""A pickle of nothing but dicts and texts needs no class, so this reads it and runs nothing of it."""


def _rows(file: BinaryIO, faults: Faults) -> Iterator[Row]:
    """One row per guide, in the hub's shape: `url` and `article`."""
    if faults.path.suffix == ".pkl":
        raise GraspError(_refusal(faults.path))
    try:
        guides = json.loads(document(file, faults).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise GraspError(f"{faults.path} is not UTF-8 (byte {error.start + 1}): save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise GraspError(f"{faults.path} is not valid JSON ({error})") from None
    if not isinstance(guides, dict):
        raise GraspError(f"{faults.path} is not WikiLingua: it must map the guides' addresses to their parts")
    for number, (url, article) in enumerate(guides.items(), 1):
        yield Row(number, {"url": url, "article": article})


def _refusal(path: Path) -> str:
    name = path.name
    return (
        f"{path} is a pickle: unpickling can run any program that is hidden in the file, so it is not read. "
        f"Convert it to JSON with the following, saved as convert.py, which refuses all but plain data, by\n"
        f"python convert.py {name} {path.stem}.json\n\n{CONVERT}"
    )


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    """A record per part; the parts of a guide, in all its languages, are a group."""
    url = text(values, "url")
    for name, part in _parts(values.get("article")):
        english = part.get("english_url") or url
        columns = {column: part[column] for column in ("document", "summary") if column in part}
        yield Record(f"{url}#{name}", columns, (f"guide {english}", f"guide {url}"))


def _parts(article: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """(name, part) of a guide, whether it maps names to parts or, as on the hub, columns to lists."""
    if not isinstance(article, dict):
        raise BadRow("no parts", "`article` must be a mapping")
    if not isinstance(names := article.get("section_name"), list):
        return [(str(name), part if isinstance(part, dict) else {}) for name, part in article.items()]
    columns = {
        key: value for key, value in article.items() if isinstance(value, list) and len(value) == len(names)
    }
    return [(str(names[i]), {key: value[i] for key, value in columns.items()}) for i in range(len(names))]


WIKILINGUA = Reader(_rows, _records)
