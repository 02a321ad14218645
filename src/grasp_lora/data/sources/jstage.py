"""Article pages of J-STAGE saved as HTML: title and abstract from their metadata (Miyano & Arase, A.2.2)."""

from collections.abc import Iterator, Mapping
from typing import Any

from grasp_lora.data.scripts import script_share
from grasp_lora.data.sources.base import Options, Reader, Record, Unsuitable, one_row
from grasp_lora.data.sources.html import decode, parse

__all__ = ["JSTAGE"]

JAPANESE = 0.5
"""Least share of an abstract's letters that are Japanese; English words are common in medicine."""


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    """A record per page with a title and an abstract in Japanese; its name is the DOI, or the file's."""
    page = parse(decode(values["content"]))
    title, abstract = page.meta("title", "citation_title"), page.meta("abstract", "citation_abstract")
    if not title or not abstract:
        raise Unsuitable("page without a title" if not title else "page without an abstract")
    if script_share(abstract, "ja") < JAPANESE or not script_share(title, "ja"):
        raise Unsuitable("not in Japanese")
    name = page.meta("doi", "citation_doi") or str(values["name"])
    yield Record(name, {"title": " ".join(title.split()), "abstract": " ".join(abstract.split())})


JSTAGE = Reader(one_row, _records)
