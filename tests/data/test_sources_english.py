"""WikiLingua, SciTLDR and MIMIC-III in their official formats."""

import csv
import gzip
import io
import json
import pickle  # noqa: TID251 - to make what must be refused
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.sources import SMALL, all_rows, json_lines, prepared, rows, small

from grasp_lora.data.prepare import prepare_card
from grasp_lora.data.sources.mimic import sections
from grasp_lora.data.sources.wikilingua import CONVERT
from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import load_task

# WikiLingua


def guides(language: str, count: int = 8) -> dict[str, dict[str, dict[str, str]]]:
    """{url: {part: {document, summary}}}, as in the pickles; two parts to a guide."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for number in range(count):
        english = f"https://www.wikihow.com/Do-{number}"
        url = english if language == "english" else f"https://www.wikihow.jp/Do-{number}"
        parts = {}
        for part in ("Before", "After"):
            parts[f"{part} {language}"] = {
                "document": f"{language}: all about step {number} {part}.",
                "summary": f"Step {number} {part} in {language}.",
            }
            if language != "english":
                parts[f"{part} {language}"] |= {"english_url": english, "english_section_name": part}
        found[url] = parts
    return found


def both(tmp_path: Path) -> Path:
    source = tmp_path / "wikilingua"
    source.mkdir()
    for language in ("english", "japanese"):
        content = json.dumps(guides(language), ensure_ascii=False)
        (source / f"{language}.json").write_text(content, encoding="utf-8")
    return source


def test_wikilingua_parts_and_that_a_guide_is_in_one_split_in_both_languages(tmp_path: Path) -> None:
    sizes = {"train": "all", "dev": 2, "micro_dev": 0, "test": 4}
    manifest = prepared(small(tmp_path, "wikilingua", sizes), both(tmp_path), tmp_path / "out")
    assert manifest["counts"] == {code: {"train": 10, "dev": 2, "test": 4} for code in ("en", "ja")}
    owners: dict[str, str] = {}
    for split, languages in all_rows(tmp_path / "out").items():
        for row in (row for found in languages.values() for row in found):
            number = row["id"].split("#")[0].rsplit("-", 1)[1]
            assert owners.setdefault(number, split) == split
    [example, *_] = load_task(tmp_path / "out").examples("ja", "test")
    assert example.prompt.startswith("Summarize the following How-to Guide and write")
    assert "How-to Guide: japanese: all about step" in example.prompt
    assert example.target.endswith("in japanese.")


def test_a_part_without_text_is_dropped_and_its_guide_kept(tmp_path: Path) -> None:
    values = guides("english")
    values["https://www.wikihow.com/Do-1"]["Before english"]["summary"] = ""
    del values["https://www.wikihow.com/Do-2"]["After english"]["document"]
    values["https://www.wikihow.com/Do-3"] = []  # type: ignore[assignment]
    (tmp_path / "english.json").write_text(json.dumps(values))
    card = small(tmp_path, "wikilingua", languages={"en": {"sizes": {"train": "all", "dev": 2, "test": 2}}})
    manifest = prepared(card, tmp_path / "english.json", tmp_path / "out")
    dropped = manifest["dropped"]["en"]
    left = dropped.pop("left over", 0)
    assert dropped == {"empty text": 1, "missing column": 1, "no parts": 1}
    assert sum(manifest["counts"]["en"].values()) + left == 8 * 2 - 4


@pytest.mark.hostile("a pickle where safetensors belong", "refused, never opened")
def test_a_pickle_is_refused_and_the_way_given_works(tmp_path: Path) -> None:
    card = small(tmp_path, "wikilingua", languages={"en": {"sizes": SMALL}})
    source = tmp_path / "data"
    source.mkdir()
    (source / "english.pkl").write_bytes(pickle.dumps(guides("english")))
    with pytest.raises(
        GraspError, match=r"english.pkl is a pickle: unpickling can run any program"
    ) as refusal:
        prepare_card(card, source, tmp_path / "out")
    assert str(refusal.value).endswith(CONVERT)
    assert "python convert.py english.pkl english.json\n" in str(refusal.value)
    assert convert(source).returncode == 0
    (source / "english.pkl").unlink()
    (source / "convert.py").unlink()
    assert prepared(card, source, tmp_path / "out")["counts"]["en"] == SMALL


def convert(source: Path) -> "subprocess.CompletedProcess[str]":
    """Do as the refusal says."""
    (source / "convert.py").write_text(CONVERT)
    command = [sys.executable, "convert.py", "english.pkl", "english.json"]
    return subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("it ran",)


@pytest.mark.hostile("a pickle where safetensors belong", "refused, never opened")
def test_a_hostile_pickle_does_not_get_through_the_conversion(tmp_path: Path) -> None:
    (tmp_path / "english.pkl").write_bytes(pickle.dumps({"u": Hostile()}))
    done = convert(tmp_path)
    assert done.returncode == 1
    assert "not plain data: it wants to run builtins.print" in done.stderr
    assert "it ran" not in done.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "is not WikiLingua"),
        (b"{", "is not valid JSON"),
        ('{"ü": 1}'.encode("latin-1"), r"is not UTF-8 \(byte 3\)"),
        (
            rb'{"u": {"\ud800": {"document": "a", "summary": "b"}}}',
            "can be used: 1 not text",
        ),
    ],
)
def test_what_is_said_of_bad_wikilingua(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "english.json").write_bytes(content)
    with pytest.raises(GraspError, match=said):
        prepare_card(small(tmp_path, "wikilingua"), tmp_path, tmp_path / "out")


# SciTLDR


def paper(number: int, tldrs: int = 1) -> dict[str, Any]:
    return {
        "source": [f"Paper {number} is about this.", "And  that.\n"],
        "source_labels": [1, 0],
        "rouge_scores": [0.5, 0.1],
        "paper_id": f"p{number}",
        "ic": True,
        "target": [f"TLDR {number}.{i} " for i in range(tldrs)],
        "title": f"Title {number}",
    }


def test_scitldr_has_several_references(tmp_path: Path) -> None:
    source = tmp_path / "SciTLDR-Data"
    for folder in ("SciTLDR-A", "SciTLDR-AIC"):
        (source / folder).mkdir(parents=True)
        for i, (split, tldrs) in enumerate((("train", 1), ("dev", 3), ("test", 3))):
            lines = [paper(100 * i + n, tldrs) for n in range(6)]
            (source / folder / f"{split}.jsonl").write_bytes(json_lines(lines))
    card = small(tmp_path, "scitldr", SMALL | {"test": "all"}, files=["SciTLDR-AIC/{split}.jsonl"])
    manifest = prepared(card, source, tmp_path / "out")
    assert manifest["counts"] == {"en": SMALL | {"test": 6}}
    assert {Path(origin["file"]).parent.name for origin in manifest["inputs"]["origins"]} == {"SciTLDR-AIC"}
    [row, *_] = rows(tmp_path / "out", "en", "test")
    number = row["id"].removeprefix("p")
    assert row == {
        "id": f"p{number}",
        "text": f"Paper {number} is about this. And that.",
        "tldr": f"TLDR {number}.0",
        "tldrs": [f"TLDR {number}.0", f"TLDR {number}.1", f"TLDR {number}.2"],
    }
    [example, *_] = load_task(tmp_path / "out").examples("en", "test")
    assert example.references == tuple(row["tldrs"])
    assert example.prompt.endswith(f"\nKey Sections: {row['text']}\nTLDR:\n")


def test_scitldr_rows_without_a_tldr_are_dropped(tmp_path: Path) -> None:
    for split in ("dev", "test"):
        (tmp_path / f"{split}.jsonl").write_bytes(json_lines([paper(n + 10 * len(split)) for n in range(4)]))
    bad = [paper(1) | {"target": []}, paper(2) | {"target": ["  "]}, paper(3) | {"source": "text"}, [1]]
    (tmp_path / "train.jsonl").write_bytes(json_lines([*bad, *(paper(n) for n in range(4, 8))]))
    dropped = prepared(small(tmp_path, "scitldr"), tmp_path, tmp_path / "out")["dropped"]["en"]
    assert {k: v for k, v in dropped.items() if k != "left over"} == {
        "missing column": 2,
        "empty text": 1,
        "unreadable line": 1,
    }


# MIMIC-III

REPORT = """\
[**2101-3-4**] 8:12 AM
 CHEST (PORTABLE AP)                                             Clip # [**Clip Number 123**]
 Reason: please assess
 ______________________________________________________________________________
 UNDERLYING MEDICAL CONDITION:
  77 year old man
 REASON FOR THIS EXAMINATION:
  please assess
 ______________________________________________________________________________
                                 FINAL REPORT
 INDICATION:  Cough.

 FINDINGS:  The heart is of normal size in patient {n}.  CT CHEST:  There are small effusions on
 both sides and the lungs are otherwise clear, with no sign of a
                                                             (Over)

 [**2101-3-4**] 8:12 AM
 CHEST (PORTABLE AP)                                             Clip # [**Clip Number 123**]
 Reason: please assess
 ______________________________________________________________________________
                                 FINAL REPORT
 (Cont)
 pneumothorax.

 IMPRESSION:  Small effusions
 in patient {n}.
 ______________________________________________________________________________
"""
COLUMNS = "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT"


def note(row: int, patient: int, report: str = "", category: str = "Radiology", error: str = "") -> list[str]:
    text = report or REPORT.format(n=row)
    return [str(row), str(patient), "1", "2101-03-04", "", "", category, "CHEST", "", error, text]


def noteevents(notes: list[list[str]]) -> bytes:
    """NOTEEVENTS.csv: all texts quoted, with line breaks in them."""
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS.split(","))
    writer.writerows(notes)
    return file.getvalue().encode()


def test_findings_and_impression_of_a_report() -> None:
    assert sections(REPORT.format(n=7)) == {
        "finding": "The heart is of normal size in patient 7. CT CHEST: There are small effusions on both "
        "sides and the lungs are otherwise clear, with no sign of a pneumothorax.",
        "impression": "Small effusions in patient 7.",
    }


@pytest.mark.parametrize(
    ("report", "found"),
    [
        ("FINDINGS: a\nIMPRESSION:\n1. b\n2. c", {"finding": "a", "impression": "1. b 2. c"}),
        (" FINDING:\n a\n IMPRESSIONS: b", {"finding": "a", "impression": "b"}),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI): x\nFINDINGS: a\nCOMPARISON: y", {"finding": "a"}),
        ("FINDINGS: a\nADDENDUM: z\nIMPRESSION: b\nIMPRESSION: c", {"finding": "a", "impression": "b"}),
        ("FINDINGS:\nIMPRESSION: b", {"impression": "b"}),
        ("No headings at all", {}),
    ],
)
def test_headings_of_reports(report: str, found: dict[str, str]) -> None:
    assert sections(report) == found


@pytest.mark.parametrize("packed", [False, True])
def test_mimic_reports_are_filtered_and_split_by_patient(tmp_path: Path, packed: bool) -> None:
    notes = [note(n, n // 2) for n in range(12)]
    notes += [
        note(100, 1, category="Nursing/other"),
        note(101, 1, error="1"),
        note(102, 1, "FINDINGS: Only these."),
        note(103, 1, "FINDINGS: Six words are not enough here.\nIMPRESSION: Five words in the impression."),
        note(104, 9, REPORT.format(n=3)),
    ]
    content = noteevents(notes)
    source = tmp_path / ("NOTEEVENTS.csv.gz" if packed else "NOTEEVENTS.csv")
    source.write_bytes(gzip.compress(content) if packed else content)
    manifest = prepared(small(tmp_path, "mimic_iii"), source, tmp_path / "out")
    assert manifest["counts"] == {"en": SMALL}
    assert manifest["dropped"]["en"] == {
        "not a radiology report": 1,
        "marked as an error": 1,
        "without findings and impression": 1,
        "findings not longer than the impression": 1,
        "findings of another row": 1,
        "left over": 5,
    }
    owners: dict[int, str] = {}
    for split, languages in all_rows(tmp_path / "out").items():
        for row in languages["en"]:
            assert owners.setdefault(int(row["id"]) // 2, split) == split


def test_a_table_that_is_not_noteevents(tmp_path: Path) -> None:
    (tmp_path / "NOTEEVENTS.csv").write_text("a,b\n1,2\n")
    with pytest.raises(GraspError, match=r"no row of 'en' in .* can be used: 1 missing column"):
        prepare_card(small(tmp_path, "mimic_iii"), tmp_path, tmp_path / "out")


def test_mimic_says_who_gives_it(tmp_path: Path) -> None:
    with pytest.raises(GraspError, match=r"credentialed account at https://physionet.org.*give it to --from"):
        prepare_card(small(tmp_path, "mimic_iii"), None, tmp_path / "out")
