"""Articles of Bloomberg saved as HTML: bullet highlights joined to the title (Miyano & Arase, A.1)."""

from collections.abc import Iterator, Mapping
from typing import Any

from grasp_lora.tasks.sources.base import Options, Reader, Record, Unsuitable, one_row
from grasp_lora.tasks.sources.html import Element, decode, parse

__all__ = ["BLOOMBERG"]

HIGHLIGHTS = "abstract"
BODY = "body-copy"


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    """A record per page: the paragraphs of its body, and title and highlights, a line each.

    Options: `highlights` and `body`, how the class names of the elements around them begin; `join`, what
    stands between title and highlights.
    """
    page = parse(decode(values["content"]))
    title = page.meta("og:title", "twitter:title") or _first(page, "h1")
    highlights = _texts(page, options.get("highlights", HIGHLIGHTS), "li")
    paragraphs = _texts(page, options.get("body", BODY), "p")
    if not highlights:
        raise Unsuitable("page without bullet highlights")
    if not title or not paragraphs:
        raise Unsuitable("page without a title" if not title else "page without a text")
    summary = options.get("join", "\n").join([title, *highlights])
    name = page.meta("og:url") or str(values["name"])
    yield Record(name, {"text": "\n".join(paragraphs), "summary": summary})


def _texts(page: Element, classes: str, tag: str) -> list[str]:
    """The texts of these tags inside the first element of such a class that has any."""
    for element in page.find(classes=classes):
        if found := [text for inside in element.find(tag) if (text := inside.text())]:
            return found
    return []


def _first(page: Element, tag: str) -> str:
    return next((element.text() for element in page.find(tag)), "")


BLOOMBERG = Reader(one_row, _records, ("highlights", "body", "join"))
