"""SQuAD 1.1 JSON, as MLQA and XQuAD have it: articles with paragraphs with questions and answers."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from grasp_lora.data.sources.base import BadRow, Options, Reader, Record, document, text
from grasp_lora.errors import GraspError
from grasp_lora.tasks.files import Faults, Row

__all__ = ["SQUAD"]


def _rows(file: BinaryIO, faults: Faults) -> Iterator[Row]:
    """One row per question, in the hub's shape: `answers` is a mapping of two lists."""
    try:
        content = json.loads(document(file, faults).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise GraspError(f"{faults.path} is not UTF-8 (byte {error.start + 1}): save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise GraspError(f"{faults.path} is not valid JSON ({error})") from None
    number = 0
    try:
        for paragraph in (p for article in content["data"] for p in article["paragraphs"]):
            for question in paragraph["qas"]:
                number += 1
                answers = {
                    key: [answer[key] for answer in question["answers"]] for key in ("text", "answer_start")
                }
                yield Row(number, {**question, "context": paragraph["context"], "answers": answers})
    except (KeyError, TypeError) as error:
        raise GraspError(
            f"{faults.path} is not SQuAD JSON (after question {number}: no {error}): it must be "
            '{"data": [{"paragraphs": [{"context": ..., "qas": [{"id", "question", "answers"}]}]}]}'
        ) from None


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    """The question, its paragraph and its distinct answers; every answer must stand in the paragraph.

    Paragraphs that share a question's id are translations of one another, so both are groups.
    """
    context, name = text(values, "context"), text(values, "id")
    answers = values.get("answers") or {}
    found = dict.fromkeys(answer.strip() for answer in answers.get("text", []) if answer.strip())
    if not found:
        raise BadRow("no answer", f"question {name!r}")
    for answer in found:
        if answer not in context:
            raise BadRow("answer not in its context", f"question {name!r}, {answer!r}")
    paragraph = hashlib.sha256(context.encode("utf-8", "surrogatepass")).hexdigest()
    yield Record(
        name,
        {
            "context": context,
            "question": text(values, "question"),
            "answer": next(iter(found)),
            "answers": list(found),
        },
        (f"question {name}", f"paragraph {paragraph}"),
    )


SQUAD = Reader(_rows, _records)
