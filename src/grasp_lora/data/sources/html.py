"""Just enough HTML for saved pages: meta tags, and the texts of elements by tag and class."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser

from grasp_lora.data.sources.base import BadRow

__all__ = ["Element", "decode", "parse"]

VOID = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
SELF_CLOSING = ("li", "p")
"""A second one right inside a first one ends that: pages may leave the end tags out."""
UNREAD = ("script", "style", "template", "noscript")
CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.IGNORECASE)


@dataclass(slots=True)
class Element:
    """An element: its tag, attributes and content in order."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    content: list["Element | str"] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    def find(self, *tags: str, classes: Sequence[str] = ()) -> Iterator["Element"]:
        """The elements inside with one of the tags and a class with one of the beginnings; () means any."""
        for child in self.content:
            if isinstance(child, Element):
                if (not tags or child.tag in tags) and (
                    not classes or any(name.startswith(tuple(classes)) for name in child.classes)
                ):
                    yield child
                yield from child.find(*tags, classes=classes)

    def text(self) -> str:
        """All text inside, spaces collapsed."""
        return " ".join("".join(self._texts()).split())

    def meta(self, *names: str) -> str:
        """The content of the first of these meta tags (by name or property) that has any, else ""."""
        for name in names:
            for tag in self.find("meta"):
                key = tag.attributes.get("name") or tag.attributes.get("property") or ""
                if key.lower() == name and (content := tag.attributes.get("content", "").strip()):
                    return content
        return ""

    def _texts(self) -> Iterator[str]:
        for child in self.content:
            if isinstance(child, str):
                yield child
            elif child.tag == "br":
                yield " "
            elif child.tag not in UNREAD:
                yield from child._texts()


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SELF_CLOSING and self.open[-1].tag == tag:
            self.open.pop()
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].content.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        for i in range(len(self.open) - 1, 0, -1):
            if self.open[i].tag == tag:
                del self.open[i:]
                return

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


def parse(page: str) -> Element:
    """The page as a tree; faults of its HTML are tolerated as browsers do, roughly."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    return builder.open[0]


def decode(content: bytes) -> str:
    """A page's text, in the encoding that it declares (in its first bytes) or UTF-8."""
    declared = CHARSET.search(content[:4096])
    name = declared[1].decode("ascii") if declared else "utf-8"
    try:
        return content.decode("utf-8-sig" if name.lower() == "utf-8" else name)
    except (UnicodeDecodeError, LookupError) as error:
        raise BadRow("wrong encoding", f"the page is not in {name} ({error}); save it as UTF-8") from None
