"""Which files of a source are whose: patterns such as `{language}_{split}.jsonl`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grasp_lora.tasks.task import Split

__all__ = ["SPLITS", "FilePatterns"]

SPLITS: dict[str, Split] = {
    "train": "train",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "dev": "dev",
    "micro_dev": "micro_dev",
    "test": "test",
}
"""What others call the splits -> what we call them."""
_SPLIT = "|".join(sorted(SPLITS, key=len, reverse=True))
_ANY_LANGUAGE = rf"(?!(?:{_SPLIT})\b)[a-z]{{2,3}}(?:[-_][A-Za-z]{{2,8}})*"


@dataclass(frozen=True, slots=True)
class FilePatterns:
    """Compiled patterns of one card.

    A pattern is the end of a path: `*` stands for anything but a slash, `{language}` for a language as the
    source calls it, `{split}` for train, val, dev, test and the like. The first pattern that fits decides.
    """

    expressions: tuple[re.Pattern[str], ...]
    codes: Mapping[str, str]
    """The source's name of a language -> our code; empty where any language is taken."""

    @classmethod
    def compile(cls, patterns: Sequence[str], names: Mapping[str, str]) -> "FilePatterns":
        """`names` are language codes -> the source's names; empty where any language is taken."""
        known = "|".join(re.escape(name) for name in sorted(names.values(), key=len, reverse=True))
        expressions = tuple(_expression(pattern, known or _ANY_LANGUAGE) for pattern in patterns)
        return cls(expressions, {name: code for code, name in names.items()})

    def match(self, path: str) -> tuple[str | None, Split | None] | None:
        """(language, split) of a file that belongs to the source, None for any other.

        The language is None where the pattern does not tell it, and so is the split.
        """
        for expression in self.expressions:
            if found := expression.search(path):
                named = found.groupdict()
                language, split = named.get("language"), named.get("split")
                code = self.codes.get(language, language) if language else None
                return code, SPLITS[split] if split else None
        return None


def _expression(pattern: str, language: str) -> re.Pattern[str]:
    parts = {"{language}": language, "{split}": _SPLIT}
    expression, seen = "", set[str]()
    for piece in re.split(r"(\{language\}|\{split\}|\*)", pattern):
        name = piece[1:-1]
        if piece == "*":
            expression += "[^/]*"
        elif piece in parts and name in seen:
            expression += f"(?P={name})"
        elif piece in parts:
            seen.add(name)
            expression += f"(?P<{name}>{parts[piece]})"
        else:
            expression += re.escape(piece)
    return re.compile(rf"(?:^|/){expression}$")
