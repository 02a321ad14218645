"""One self-contained HTML page: texts, tables that sort, pictures, answers; it asks nothing of a network."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from grasp_lora.reporting.blocks import Answered, Bold, Figure, Table, Text, without_controls

__all__ = ["MADE_BY", "PAGE_FILE", "Part", "Shown", "write_page"]

PAGE_FILE = "report.html"
MADE_BY = '<meta name="generator" content="GRASP LoRA">'  # what says that a page is ours to write over
Shown = tuple[Text | Table | Figure | Answered, str]
"""A block, and of a figure its SVG element."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page under a heading; of a report of several runs, one with parts of its own."""

    title: str
    shown: Sequence[Shown] = ()
    parts: Sequence["Part"] = ()
    anchor: str = ""
    """Of links to it, where it is not the title."""

    @property
    def id(self) -> str:
        return self.anchor or re.sub(r"\W+", "-", self.title.lower()).strip("-")

    @property
    def is_empty(self) -> bool:
        return not self.shown and all(part.is_empty for part in self.parts)


def write_page(folder: Path, title: str, parts: Sequence[Part]) -> None:
    """As `report.html`; parts with nothing in them are left out."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["text"] = lambda block: isinstance(block, Text)
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["figure"] = lambda block: isinstance(block, Figure)
    environment.tests["bold"] = lambda cell: isinstance(cell, Bold)
    environment.filters |= {"paragraphs": _paragraphs, "clean": without_controls, "marked": _marked}
    style, script = (_template(name) for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.from_string(_template("report.html.j2")).render(
        title=title,
        parts=[part for part in parts if not part.is_empty],
        style=Markup(style),  # ours, not the data's
        script=Markup(script),
        script_digest=digest,
        made_by=Markup(MADE_BY),
    )
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")


def _template(name: str) -> str:
    return (files("grasp_lora.reporting") / "templates" / name).read_text(encoding="utf-8")


def _paragraphs(text: str) -> list[tuple[str, list[str]]]:
    """Paragraphs as ("p", [text]), lists as ("ul", items)."""
    found = []
    for block in without_controls(text).split("\n\n"):
        lines = block.strip().split("\n")
        if all(line.startswith("- ") for line in lines):
            found.append(("ul", [line[2:] for line in lines]))
        elif block.strip():
            found.append(("p", [block.strip()]))
    return found


def _marked(answer: str, reference: str) -> Markup:
    """An answer with what the reference does not have, in its order, marked."""
    words, other = (_WORDS.findall(without_controls(text)) for text in (answer, reference))
    parts = []
    first, second = ([word.strip() for word in side] for side in (words, other))
    for kind, start, end, _, _ in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        text = escape("".join(words[start:end]))
        parts.append(Markup("<mark>{}</mark>").format(text) if kind in ("replace", "delete") else text)
    return Markup("").join(parts)


# A word with the space after it; of scripts without spaces between words (Thai, Lao, kana, Han) a character.
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+\s*|.\s*", re.S)
