"""MIMIC-III's NOTEEVENTS.csv: the findings and the impression of radiology reports (Miyano & Arase, A.3)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from grasp_lora.data.sources.base import BadRow, Options, Reader, Record, Unsuitable, text
from grasp_lora.tasks.files import csv_rows

__all__ = ["MIMIC", "sections"]

PAGE_BREAK = re.compile(r"\(Over\).*?\(Cont\)[ \t]*", re.DOTALL)
HEADINGS = (
    "ADDENDUM|CLINICAL [A-Z ]+|COMPARISONS?|CONCLUSIONS?|CONTRAST|EXAM(?:INATION)?S?|HISTORY|INDICATIONS?|"
    "NOTIFICATION|PROCEDURES?|PROVISIONAL [A-Z ()]+|REASON FOR[A-Z ]+|RECOMMENDATIONS?|STUDY|TECHNIQUES?|"
    "WET READ"
)
HEADER = re.compile(
    rf"^[ \t]*(?:(?P<name>FINDINGS?|IMPRESSIONS?)|{HEADINGS})[ \t]*:|^[ \t]*_{{5,}}[ \t]*$", re.MULTILINE
)
"""Where a section begins and the one before it ends. Other words in capitals ("CT CHEST:") are inside one."""
MIN_LENGTH_RATIO = 1.5


def sections(report: str) -> dict[str, str]:
    """The text under FINDINGS and IMPRESSION, as far as there is any; the first where one comes twice.

    Page breaks are taken out, and lines are joined.
    """
    report = PAGE_BREAK.sub("\n", report)
    found: dict[str, str] = {}
    headers = list(HEADER.finditer(report))
    ends = [*(header.start() for header in headers[1:]), len(report)]
    for header, end in zip(headers, ends, strict=False):
        content = " ".join(report[header.end() : end].split())
        if (name := header["name"]) and content:
            found.setdefault(name.rstrip("S").lower(), content)
    return found


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    """A record per report; those of a patient are a group.

    Option `min_length_ratio`: the findings must have at least so many times the words of the impression. The
    paper removes findings that are "shorter than or comparable in length".
    """
    note = {str(name).upper(): value for name, value in values.items()}
    for column in ("ROW_ID", "SUBJECT_ID", "CATEGORY", "TEXT"):
        if column not in note:
            raise BadRow("missing column", f"{column!r}: is this NOTEEVENTS.csv?")
    if note["CATEGORY"].strip().lower() != "radiology":
        raise Unsuitable("not a radiology report")
    if note.get("ISERROR", "").strip() in ("1", "1.0"):
        raise Unsuitable("marked as an error")
    found = sections(note["TEXT"])
    if len(found) < 2:
        raise Unsuitable("without findings and impression")
    findings, impression = found["finding"], found["impression"]
    ratio = float(options.get("min_length_ratio", MIN_LENGTH_RATIO))
    if len(findings.split()) < ratio * len(impression.split()):
        raise Unsuitable("findings not longer than the impression")
    yield Record(
        text(note, "ROW_ID"),
        {"findings": findings, "impression": impression},
        (f"patient {text(note, 'SUBJECT_ID')}",),
    )


MIMIC = Reader(csv_rows, _records, ("min_length_ratio",))
