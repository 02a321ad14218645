"""Small files in the official formats of the papers' data sets, and cards that ask for few rows."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from grasp_lora.data.card import Card, load_card
from grasp_lora.data.folder import read_manifest
from grasp_lora.data.prepare import prepare_card

SMALL = {"train": 2, "dev": 2, "micro_dev": 1, "test": 2}


def small(folder: Path, base: str, sizes: Mapping[str, Any] = SMALL, **changes: Any) -> Card:
    """The built-in card with every language's sizes replaced."""
    from grasp_lora.data.card import find_card

    known = find_card(base, [])
    assert known is not None
    values = {"extends": base, "name": f"small-{base}", **changes}
    values.setdefault("languages", {code: {"sizes": dict(sizes)} for code in known.languages})
    for language in values["languages"].values():
        if language and "sizes" in language:
            language["sizes"] = {"pool": 0, **language["sizes"]}
    path = folder / f"small-{base}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_card(path)


def prepared(card: Card, source: Path, out: Path, **arguments: Any) -> dict[str, Any]:
    """Prepare, and return the manifest."""
    manifest = read_manifest(prepare_card(card, source, out, **arguments))
    assert manifest is not None
    return manifest


def rows(folder: Path, language: str, split: str) -> list[dict[str, Any]]:
    text = (folder / language / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def all_rows(folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Split -> language -> rows."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*/*.jsonl")):
        found.setdefault(path.stem, {})[path.parent.name] = rows(folder, path.parent.name, path.stem)
    return found


def json_lines(values: Iterable[object]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def tar_bz2(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:bz2") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


# XL-Sum


def xlsum_row(number: int, language: str = "english") -> dict[str, str]:
    return {
        "id": f"world-{number}",
        "url": f"https://www.bbc.com/{language}/world-{number}",
        "title": f"Title {number}",
        "summary": f"Summary {number}.",
        "text": f"Text {number} in {language}, of some length.",
    }


def xlsum_archive(folder: Path, language: str = "english", each: int = 6, start: int = 0) -> Path:
    """`LANGUAGE_XLSum_v2.0.tar.bz2` with train, val and test."""
    members = {}
    for i, split in enumerate(("train", "test", "val")):
        first = start + i * each
        lines = [xlsum_row(number, language) for number in range(first, first + each)]
        members[f"{language}_{split}.jsonl"] = json_lines(lines)
    return tar_bz2(folder / f"{language}_XLSum_v2.0.tar.bz2", members)


# SQuAD


def squad(
    paragraphs: int,
    language: str,
    questions: int = 3,
    start: int = 0,
    change: Callable[[Any], Any] | None = None,
) -> bytes:
    """SQuAD 1.1 JSON: questions have the same ids in all languages, paragraphs do not have the same text."""
    data = []
    for number in range(start, start + paragraphs):
        context = f"{language} paragraph {number} says that " + ", ".join(
            f"answer{number}.{i}" for i in range(questions)
        )
        qas = [
            {
                "id": f"q{number}.{i}",
                "question": f"What is {i} in {number} ({language})?",
                "answers": [
                    {"text": (answer := f"answer{number}.{i}"), "answer_start": context.index(answer)}
                ],
            }
            for i in range(questions)
        ]
        data.append({"title": f"Article {number}", "paragraphs": [{"context": context, "qas": qas}]})
    content: Any = {"version": "1.1", "data": data}
    return json.dumps(change(content) if change else content, ensure_ascii=False).encode()


def mlqa_zip(path: Path, languages: Iterable[str], dev: int = 3, test: int = 12) -> Path:
    """`MLQA_V1.zip`: a file for every pair of languages, of which those of one language twice are used."""
    members = {"MLQA_V1/": b"", "MLQA_V1/dev/": b"", "MLQA_V1/test/": b""}
    for split, paragraphs, start in (("dev", dev, 0), ("test", test, dev)):
        for context in languages:
            for question in languages:
                name = f"MLQA_V1/{split}/{split}-context-{context}-question-{question}.json"
                members[name] = squad(paragraphs, context, start=start)
    return zipped(path, members)
