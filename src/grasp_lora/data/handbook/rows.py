"""Which sections of the handbook are good examples, and their splits.

A translation is followed paragraph by paragraph: what still equals the English, or is not in the language's
script, was not translated.
"""

import random
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Set

from grasp_lora.data.folder import Rows
from grasp_lora.data.handbook.pages import Section
from grasp_lora.data.handbook.roles import Sizes, assign_roles
from grasp_lora.data.scripts import script_share
from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import Split

__all__ = ["SOURCE", "split_sections"]

SOURCE = "en"
MIN_CHARACTERS = {"ja": 45, "zh": 30}
"""Shortest text; others 80. For the same, Japanese needs 0.56 and Chinese 0.31 of the English characters."""
MIN_TRANSLATED = 0.9
"""Least share of a section that must be translated, in characters of the English."""
MIN_SCRIPT = 0.2
"""Least share of a paragraph's letters in the language's script: Chinese full of commands comes near it."""

Row = dict[str, str]
Pages = Mapping[str, Mapping[str, Section]]
"""Language -> section id -> section."""


def split_sections(pages: Pages, generator: random.Random) -> tuple[Rows, dict[str, dict[str, int]]]:
    """Rows per language and split, and how many sections of each language were dropped, by reason.

    Every section has one role in all languages. Sections that share a title or a text with an earlier one, in
    any language, are dropped from all, so no title or text is in two splits. The source's train is what no
    target holds out; its dev has no section of a target; its test is the targets' test sections. A target's
    pool is what it could train on beyond its train.
    """
    dropped: dict[str, Counter[str]] = {language: Counter() for language in pages}
    english = dict(_english_rows(pages[SOURCE], dropped[SOURCE]))
    rows = {SOURCE: english}
    for language in pages:
        if language != SOURCE:
            rows[language] = dict(_translated_rows(pages, language, english.keys(), dropped[language]))
    repeated = _repeated(rows)
    for language in rows:
        kept = {name: row for name, row in rows[language].items() if name not in repeated}
        dropped[language]["title or text of an earlier section"] = len(rows[language]) - len(kept)
        rows[language] = kept
    sizes = Sizes()
    targets = {language: rows[language].keys() for language in sorted(rows) if language != SOURCE}
    roles = assign_roles(targets, sizes, generator)
    source = _source_roles(rows[SOURCE].keys(), roles, sizes, generator)
    for splits in roles.values():
        splits["pool"] = [name for name in splits["pool"] if name not in set(source["dev"])]
    roles = {SOURCE: source, **roles}
    for language, splits in roles.items():
        dropped[language]["left over"] = len(rows[language]) - sum(map(len, splits.values()))
    filled: dict[str, dict[Split, list[Row]]] = {
        language: {
            split: [rows[language][name] for name in names] for split, names in splits.items() if names
        }
        for language, splits in roles.items()
    }
    return filled, {language: dict(dropped[language]) for language in filled}


def _english_rows(sections: Mapping[str, Section], dropped: Counter[str]) -> Iterator[tuple[str, Row]]:
    for name, section in sections.items():
        text = "\n".join(filter(None, section.paragraphs))
        if len(text) < _min_characters(SOURCE) or not section.title:
            dropped["too little text"] += 1
        else:
            yield name, {"id": name, "title": section.title, "text": text}


def _translated_rows(
    pages: Pages, language: str, usable: Set[str], dropped: Counter[str]
) -> Iterator[tuple[str, Row]]:
    for name, section in pages[language].items():
        original = pages[SOURCE].get(name)
        if original is None or len(original.paragraphs) != len(section.paragraphs):
            dropped["not aligned with the English"] += 1
            continue
        pairs = zip(original.paragraphs, section.paragraphs, strict=True)
        translated = [pair for pair in pairs if _is_translated(*pair, language)]
        covered = sum(len(english) for english, _ in translated)
        text = "\n".join(own for _, own in translated)
        if name not in usable:
            dropped["too little text in English"] += 1
        elif section.title == original.title or not script_share(section.title, language):
            dropped["untranslated title"] += 1
        elif covered < MIN_TRANSLATED * sum(map(len, original.paragraphs)):
            dropped["untranslated text"] += 1
        elif len(text) < _min_characters(language):
            dropped["too little text"] += 1
        else:
            yield name, {"id": name, "title": section.title, "text": text}


def _is_translated(english: str, own: str, language: str) -> bool:
    return own != english and script_share(own, language) >= MIN_SCRIPT


def _min_characters(language: str) -> int:
    return MIN_CHARACTERS.get(language.split("-")[0], 80)


def _repeated(rows: Mapping[str, Mapping[str, Row]]) -> set[str]:
    """Sections whose title or text, but for case, spaces and punctuation, an earlier one has."""
    repeated: set[str] = set()
    for language in sorted(rows):
        seen: set[tuple[str, str]] = set()
        for name, row in rows[language].items():
            keys = {(column, _normalised(row[column])) for column in ("title", "text")}
            if keys & seen:
                repeated.add(name)
            seen |= keys
    return repeated


def _normalised(text: str) -> str:
    letters = [c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum()]
    return "".join(letters) or text


def _source_roles(
    sections: Set[str],
    targets: Mapping[str, Mapping[Split, list[str]]],
    sizes: Sizes,
    generator: random.Random,
) -> dict[Split, list[str]]:
    """The source's splits: its test sections are the targets' own, so they cost it nothing."""

    def ids(*splits: Split) -> set[str]:
        return {name for target in targets.values() for split in splits for name in target[split]}

    test = sorted(ids("test"))
    untouched = sorted(sections - ids("train", "dev", "micro_dev", "test"))
    if len(untouched) < 2:
        raise GraspError("the targets take every English section and leave none for English dev: take fewer")
    dev = generator.sample(untouched, min(sizes.dev, len(untouched) // 2))
    train = sorted(sections - ids("dev", "micro_dev", "test") - set(dev))
    return {
        "train": generator.sample(train, len(train)),
        "dev": dev,
        "test": generator.sample(test, min(sizes.test, len(test))),
    }
