"""The pages of the documentation, their code blocks and their links."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
BESIDE = ("README.md", "PAPER.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES = [*BESIDE, *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced code block; `why_not` is the reason in the comment above it, where there is one."""

    page: str
    line: int
    language: str
    text: str
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_in(page: str, text: str) -> list[Block]:
    found, lines, start = [], text.splitlines(), None
    for number, line in enumerate(lines):
        fence = re.fullmatch(r"\s*```(\S*).*", line)
        if fence and start is None:
            start, language = number, fence[1]
        elif fence:
            above = next((before for before in reversed(lines[:start]) if before.strip()), "")
            mark = NOT_RUN.fullmatch(above.strip())
            inside = "\n".join(lines[start + 1 : number]) + "\n"
            found.append(Block(page, start + 2, language, inside, mark and mark[1]))
            start = None
    assert start is None, f"{page}:{start}: a block does not end"
    return found


@cache
def blocks(*languages: str) -> list[Block]:
    """All blocks of all pages, or those of some languages."""
    every = [block for page in PAGES for block in blocks_in(page, text_of(page))]
    return [block for block in every if block.language in languages or not languages]


def prose(page: str) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def links(page: str) -> list[str]:
    """Targets of links and images."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    return re.findall(r"\]\(([^()\s]+)\)", text)


@cache
def anchors(page: str) -> frozenset[str]:
    """What a link may name after #, as GitHub and Zensical make it of headings."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain)
