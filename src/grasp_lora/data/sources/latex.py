"""LaTeX sources of the Journal of Natural Language Processing: title and abstract (Miyano & Arase, A.2.1)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from grasp_lora.data.scripts import script_share
from grasp_lora.data.sources.base import BadRow, Options, Reader, Record, Unsuitable, one_row

__all__ = ["LATEX", "argument", "plain"]

JAPANESE = 0.5
"""Least share of an abstract's letters that are Japanese."""
COMMENT = re.compile(r"(?<!\\)%.*")
# Commands that vanish with what they are given: references, spacing, notes.
DROPPED = (
    "cite|citep|citet|nocite|ref|eqref|pageref|label|vspace|hspace|vskip|hskip|footnote|footnotemark|"
    "footnotetext|thanks|index|includegraphics|url|href"
)
DROPPED_COMMAND = re.compile(rf"~?\\(?:{DROPPED})\*?(?![A-Za-z])\s*(?:\[[^\]]*\])*")
ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^}]*\}(?:\[[^\]]*\])?")
SPELLED = {
    r"\LaTeX": "LaTeX",
    r"\TeX": "TeX",
    r"\BibTeX": "BibTeX",
    r"\ldots": "…",
    r"\dots": "…",
    r"\\": "\n",
}
SYMBOL = re.compile(r"\\([%&$#_{}~^ ])")
COMMAND = re.compile(r"\\(?:[A-Za-z]+\*?|[^A-Za-z])\s*(?:\[[^\]]*\])?")
WIDE = r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]"
LINE_BREAK = re.compile(rf"(?<={WIDE})[ \t]*\n[ \t]*")
"""A line break after Japanese is no space, as in pLaTeX."""


def argument(source: str, *names: str) -> str:
    r"""What the first of these commands or environments that is there holds, else "".

    `\name{...}` with balanced braces, after an optional [...], or `\begin{name}...\end{name}`.
    """
    for name in names:
        if found := re.search(rf"\\{name}(?![A-Za-z])\s*(?:\[[^\]]*\])?\s*\{{", source):
            return source[found.end() : _closing(source, found.end())]
        if found := re.search(rf"\\begin\{{{name}\}}(.*?)\\end\{{{name}\}}", source, re.DOTALL):
            return found[1]
    return ""


def plain(source: str) -> str:
    """A piece of LaTeX as plain text: commands removed, the text in them kept, lines joined."""
    text = source
    while found := DROPPED_COMMAND.search(text):
        end = found.end()
        if text[end : end + 1] == "{":
            end = _closing(text, end + 1) + 1
        text = text[: found.start()] + text[end:]
    text = ENVIRONMENT.sub(" ", text)
    for command, spelled in SPELLED.items():
        text = re.sub(re.escape(command) + ("(?![A-Za-z])" if command[-1].isalpha() else ""), spelled, text)
    text = SYMBOL.sub(lambda symbol: chr(0xE000 + ord(symbol[1])), text)  # out of the way of what comes now
    text = COMMAND.sub("", text)
    text = re.sub(r"[{}$]", "", text).replace("~", " ")
    text = re.sub("[\ue000-\ue0ff]", lambda symbol: chr(ord(symbol[0]) - 0xE000), text)
    return " ".join(LINE_BREAK.sub("", text).split())


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    """A record per paper in Japanese: `jtitle` or `title`, `jabstract` or `abstract`."""
    source = COMMENT.sub("", _decode(values["content"]))
    title = plain(argument(source, "jtitle", "title"))
    abstract = plain(argument(source, "jabstract", "abstract"))
    if not title or not abstract:
        raise Unsuitable("paper without a title" if not title else "paper without an abstract")
    if script_share(abstract, "ja") < JAPANESE or not script_share(title, "ja"):
        raise Unsuitable("not in Japanese")
    yield Record(str(values["name"]), {"title": title, "abstract": abstract})


def _closing(source: str, start: int) -> int:
    """Where the brace closes that was opened before `start`; the end of the source where it never does."""
    depth = 1
    for found in re.finditer(r"\\.|[{}]", source[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if not depth:
            return start + found.start()
    return len(source)


def _decode(content: bytes) -> str:
    """The journal's volumes are in UTF-8, JIS, EUC-JP or Shift JIS, by their year."""
    for encoding in ["iso2022_jp"] if b"\x1b$" in content else ["utf-8-sig", "euc_jp", "cp932"]:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise BadRow("wrong encoding", "neither UTF-8 nor JIS, EUC-JP or Shift JIS; save the file as UTF-8")


LATEX = Reader(one_row, _records)
