"""Articles of Bloomberg saved as HTML: bullet highlights joined to the title (Miyano & Arase, A.1)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grasp_lora.data.sources.base import Options, Reader, Record, Unsuitable, one_row
from grasp_lora.data.sources.html import Element, decode, parse
from grasp_lora.errors import GraspError

__all__ = ["BLOOMBERG"]


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    """A record per page: the paragraphs of its body, and title and highlights, a line each.

    Options: `highlights` and `body`, how the class names of the list items and the paragraphs, or of elements
    around them, begin (one or several); `join`, what stands between title and highlights.
    """
    page = parse(decode(values["content"]))
    title = page.meta("og:title", "twitter:title") or _first(page, "h1")
    highlights = _texts(page, _classes(options, "highlights"), "li")
    paragraphs = _texts(page, _classes(options, "body"), "p")
    if not highlights:
        raise Unsuitable("page without bullet highlights")
    if not title or not paragraphs:
        raise Unsuitable("page without a title" if not title else "page without a text")
    summary = options.get("join", "\n").join([title, *highlights])
    name = page.meta("og:url") or str(values["name"])
    yield Record(name, {"text": "\n".join(paragraphs), "summary": summary})


def _classes(options: Options, name: str) -> list[str]:
    wanted = options.get(name)
    classes = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(classes, list) or not classes or not all(isinstance(c, str) and c for c in classes):
        raise GraspError(
            f"the card's option {name!r} must say how class names begin, as a text or a list of them"
        )
    return classes


def _texts(page: Element, classes: Sequence[str], tag: str) -> list[str]:
    """The texts of these tags in the first element of such a class that has any, else of such a class."""
    for element in page.find(classes=classes):
        if found := [text for inside in element.find(tag) if (text := inside.text())]:
            return found
    return [text for element in page.find(tag, classes=classes) if (text := element.text())]


def _first(page: Element, tag: str) -> str:
    return next((element.text() for element in page.find(tag)), "")


BLOOMBERG = Reader(one_row, _records, ("highlights", "body", "join"))
