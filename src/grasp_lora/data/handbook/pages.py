"""The sections of one language of the Debian Administrator's Handbook, read from its XHTML pages.

The pages are made from DocBook: `div.chapter`, `div.section` and `div.sidebar` are nested, each begins with
a `div.titlepage`, and prose is in `div.para`. Translations have the same blocks and paragraphs in the same
order.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from grasp_lora.errors import GraspError

__all__ = ["Section", "read_sections"]

BLOCKS = {"chapter", "appendix", "preface", "section", "sidebar"}
# Not prose: titles of other things, tables of contents, and what is shown rather than said.
SKIPPED = {
    "titlepage",
    "toc",
    "example",
    "informalexample",
    "figure",
    "mediaobject",
    "table",
    "calloutlist",
    "url",
}
CROSS_REFERENCE = "…"
"""Stands for a reference such as "Section 6.2, “Title”": it would give away another section's title."""

# "6.2.1. ", "B.4. "; and "Chapter 6. ", "فصل 6. ", "第 6 章 ", "6장. ", "付録 A " in whatever language.
SECTION_LABEL = re.compile(r"^(?:\d+|[A-Z])(?:\.\d+)+\.?\s+")
CHAPTER_LABEL = re.compile(
    r"^(?:第\s*\d+\s*章|\d+장\.|付録\s[A-Z]|[^\W\d_]+(?:\s[^\W\d_]+)?\s(?:\d+|[A-Z])\.)\s+"
)
# Invisible: soft hyphen, zero-width space, byte order mark, marks and embeddings of text direction.
INVISIBLE = dict.fromkeys(
    [0xAD, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)


@dataclass(frozen=True, slots=True)
class Section:
    """A titled block, without the blocks inside it."""

    id: str
    """The same in every language: the block's own id, or "PARENT/N" for the N-th block in it without one."""
    title: str
    """Without its number, or, for a sidebar, without its kind ("VOCABULARY")."""
    paragraphs: tuple[str, ...]


def read_sections(folder: Path) -> dict[str, Section]:
    """All titled blocks of a language's folder by id, in the order of file names and then of the text."""
    sections: dict[str, Section] = {}
    for path in sorted(folder.glob("*.html")):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError) as error:
            raise GraspError(f"{path} is not a readable page of the handbook: {error}") from None
        for section in _sections(root, path.stem, Counter()):
            if section.id in sections:
                raise GraspError(f"{path}: the id {section.id!r} is used twice in {folder}")
            sections[section.id] = section
    return sections


def _sections(element: Element, parent: str, unnamed: Counter[str]) -> Iterator[Section]:
    for child in element:
        title_page = _title_page(child) if _classes(child) & BLOCKS else None
        if title_page is None:
            yield from _sections(child, parent, unnamed)
            continue
        own = _own_id(child, title_page)
        if own is None:
            unnamed[parent] += 1
            own = f"{parent}/{unnamed[parent]}"
        yield Section(own, _title(child, title_page), tuple(_paragraphs(child)))
        yield from _sections(child, own, unnamed)


def _classes(element: Element) -> set[str]:
    return set(element.get("class", "").split())


def _title_page(block: Element) -> Element | None:
    return next((child for child in block if "titlepage" in _classes(child)), None)


def _own_id(block: Element, title_page: Element) -> str | None:
    anchors = [*title_page.iter(), *(child for child in block if "indexterm" not in _classes(child))]
    return next((anchor.get("id") for anchor in anchors if anchor.get("id")), None)


def _title(block: Element, title_page: Element) -> str:
    title = next((element for element in title_page.iter() if "title" in _classes(element)), title_page)
    if "sidebar" in _classes(block):
        return _sidebar_title(title)
    label = SECTION_LABEL if "section" in _classes(block) else CHAPTER_LABEL
    return label.sub("", _clean("".join(title.itertext())))


def _sidebar_title(title: Element) -> str:
    """What follows the emphasised kind, where the title begins with one (or with a slip of the typist)."""
    strong = title[0] if len(title) else title
    kind = strong[0] if len(strong) else None
    if kind is None or "emphasis" not in _classes(kind) or len(_clean(strong.text or "")) > 2:
        return _clean("".join(title.itertext()))
    rest = "".join([kind.tail or "", *("".join(part.itertext()) + (part.tail or "") for part in strong[1:])])
    return _clean(rest).lstrip(":：").lstrip()


def _paragraphs(block: Element) -> Iterator[str]:
    """The block's own prose, lists included; empty paragraphs too, so that translations stay aligned."""
    for child in block:
        if _is_prose(child):
            if "para" in _classes(child):
                yield _clean(_text(child))
            else:
                yield from _paragraphs(child)


def _is_prose(element: Element) -> bool:
    return not (_classes(element) & (BLOCKS | SKIPPED) or element.tag.endswith("}pre"))


def _text(element: Element) -> str:
    if "xref" in _classes(element):
        return CROSS_REFERENCE
    parts = [element.text or ""]
    for child in element:
        parts += [_text(child) if _is_prose(child) else " ", child.tail or ""]
    return "".join(parts)


def _clean(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text.translate(INVISIBLE)).split())
