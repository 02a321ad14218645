"""What the page of troubleshooting quotes is what the code says."""

import ast
import re
from functools import cache

import pytest
from tests.helpers.pages import ROOT, text_of

PAGE = " ".join(text_of("docs/troubleshooting.md").split())
QUOTES = re.findall(r'"(.+?)"', " ".join(re.findall(r"\*\*(.+?)\*\*", PAGE)))


def text_in(node: ast.JoinedStr) -> str:
    return "".join(str(one.value) if isinstance(one, ast.Constant) else "\0" for one in node.values)


@cache
def said() -> str:
    """All texts in the code; a value that is put into one is a gap."""
    found = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(text_in(node))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sd]|%\.\d+f", "\0", node.value))
    return "\n".join(found)


def pieces(quote: str) -> list[str]:
    """What stands between the places of values: ..., N, and names in quotes."""
    parts = re.split(r"\.\.\.|\bN\b|'[^']*'|\b\d+\b|\bnan\b|\{\}", quote.replace("\n", " "))
    return [part.strip(" ,:") for part in parts if re.search(r"\w{2}", part)]


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_is_the_codes(quote):
    assert pieces(quote)
    assert [piece for piece in pieces(quote) if piece not in said()] == []


def test_there_are_many_and_the_check_can_fail():
    assert len(QUOTES) > 40
    assert pieces("the bogus message of no code")[0] not in said()
