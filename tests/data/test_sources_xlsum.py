"""XL-Sum's archives, and what is done about archives that are broken or hostile."""

import bz2
import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from tests.helpers.sources import (
    SMALL,
    all_rows,
    json_lines,
    prepared,
    rows,
    small,
    squad,
    tar_bz2,
    xlsum_archive,
    xlsum_row,
    zipped,
)

from grasp_lora.data.card import Sizes
from grasp_lora.data.corpus import Item
from grasp_lora.data.prepare import prepare_card
from grasp_lora.data.sampling import sample_official
from grasp_lora.data.sources import base
from grasp_lora.errors import GraspError
from grasp_lora.tasks.kept import Pile
from grasp_lora.tasks.task import load_task

TWO = {"en": {"sizes": {"train": 5, "dev": 4, "micro_dev": 0, "test": 3}}, "ar": {"sizes": SMALL}}


def test_archives_of_several_languages(tmp_path: Path) -> None:
    source = tmp_path / "downloads"
    source.mkdir()
    for language in ("english", "arabic", "french"):
        xlsum_archive(source, language)
    manifest = prepared(
        small(tmp_path, "xlsum", languages=TWO | {"zh": None, "ja": None}), source, tmp_path / "out"
    )
    assert manifest["counts"] == {"en": {"train": 5, "dev": 4, "test": 3}, "ar": dict(SMALL)}
    assert [origin["file"] for origin in manifest["inputs"]["origins"]] == [
        "arabic_XLSum_v2.0.tar.bz2",
        "english_XLSum_v2.0.tar.bz2",
    ]
    official = {
        split: {f"world-{n}" for n in range(i * 6, i * 6 + 6)}
        for i, split in enumerate(("train", "test", "dev"))
    }
    official["micro_dev"] = official["dev"]
    for split, languages in all_rows(tmp_path / "out").items():
        for found in languages.values():
            assert {row["id"] for row in found} <= official[split]
    arabic = {
        split: {row["id"] for row in found["ar"]} for split, found in all_rows(tmp_path / "out").items()
    }
    assert not arabic["dev"] & arabic["micro_dev"]
    [example, *_] = load_task(tmp_path / "out").examples("en", "test")
    number = example.id.removeprefix("world-")
    assert example.prompt == (
        "Summarize the following news article.\n"
        f"Article:Text {number} in english, of some length.\nSummary:\n"
    )
    assert example.target == f"Summary {number}."
    assert load_task(tmp_path / "out").new_tokens("ar") == 128


def test_what_is_sampled_depends_on_the_rows_and_the_seed_alone(tmp_path: Path) -> None:
    card = small(tmp_path, "xlsum", languages=TWO | {"zh": None, "ja": None})
    for name, languages in (("one", ["english"]), ("two", ["english", "arabic"])):
        (tmp_path / name).mkdir()
        for language in languages:
            xlsum_archive(tmp_path / name, language)
        prepare_card(card, tmp_path / name, tmp_path / f"{name}-out")
    assert rows(tmp_path / "one-out", "en", "train") == rows(tmp_path / "two-out", "en", "train")
    plain = tmp_path / "plain"
    plain.mkdir()
    with tarfile.open(tmp_path / "one" / "english_XLSum_v2.0.tar.bz2") as archive:
        archive.extractall(plain, filter="data")
    train = plain / "english_train.jsonl"
    train.write_text("".join(reversed(train.read_text().splitlines(keepends=True))))
    prepare_card(card, plain, tmp_path / "plain-out")
    assert rows(tmp_path / "one-out", "en", "train") == rows(tmp_path / "plain-out", "en", "train")


def test_a_larger_micro_dev_changes_no_other_split(tmp_path: Path) -> None:
    for size in (1, 2):
        card = small(tmp_path, "xlsum", SMALL | {"micro_dev": size})
        prepare_card(card, xlsum_archive(tmp_path), tmp_path / str(size))
    one, two = (all_rows(tmp_path / name) for name in ("1", "2"))
    assert [one[split] for split in ("train", "dev", "test")] == [
        two[split] for split in ("train", "dev", "test")
    ]
    assert one["micro_dev"]["en"] == two["micro_dev"]["en"][:1]


def test_repeated_articles_are_dropped_and_stay_in_the_test_set(tmp_path: Path) -> None:
    test = [xlsum_row(n) for n in range(3)]
    train = [
        test[0],  # the very same
        xlsum_row(1) | {"id": "other-1", "text": "Another text at the same address."},
        xlsum_row(9) | {"text": "Text 2  in english,\nof some length."},  # the same but for spaces
        xlsum_row(8) | {"summary": " "},
        xlsum_row(11),
        xlsum_row(12),
        xlsum_row(12),
        xlsum_row(13) | {"url": None},
    ]
    dev = [xlsum_row(n) for n in range(20, 26)]
    source = tar_bz2(
        tmp_path / "english_XLSum_v2.0.tar.bz2",
        {
            "english_train.jsonl": json_lines(train),
            "english_val.jsonl": json_lines(dev),
            "english_test.jsonl": json_lines(test),
        },
    )
    sizes = {"train": "all", "dev": "all", "micro_dev": 0, "test": "all"}
    card = small(tmp_path, "xlsum", languages={"en": {"sizes": sizes}, "ar": None, "zh": None, "ja": None})
    manifest = prepared(card, source, tmp_path / "out")
    assert manifest["counts"]["en"] == {"train": 2, "dev": 6, "test": 3}
    assert manifest["dropped"]["en"] == {
        "empty text": 1,
        "missing column": 1,
        "the same row again": 1,
        "id of another row": 1,
        "url of another row": 1,
        "text of another row": 1,
    }
    assert {row["id"] for row in rows(tmp_path / "out", "en", "train")} == {"world-11", "world-12"}


def test_a_split_that_is_too_small_is_named(tmp_path: Path) -> None:
    card = small(tmp_path, "xlsum", {"train": 7, "dev": 2, "micro_dev": 1, "test": 2})
    said = r"'en' has 18 rows, which leaves 6 for train, and the card asks for 7: give more data, or write"
    with pytest.raises(GraspError, match=said):
        prepare_card(card, xlsum_archive(tmp_path), tmp_path / "out")
    card = small(tmp_path, "xlsum", {"train": 6, "dev": 4, "micro_dev": 3, "test": 2})
    with pytest.raises(GraspError, match=r"leaves 2 for micro_dev, and the card asks for 3"):
        prepare_card(card, xlsum_archive(tmp_path), tmp_path / "out")


# Broken and hostile archives


def refused(tmp_path: Path, source: Path, said: str, base: str = "xlsum") -> None:
    """Preparing says so in one message, and leaves nothing behind."""
    card = small(tmp_path, base)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(GraspError, match=said):
        prepare_card(card, source, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_tar(tmp_path: Path, share: float) -> None:
    path = xlsum_archive(tmp_path, each=2000)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(
        tmp_path,
        path,
        r"english_XLSum_v2.0.tar.bz2 has an archive that is cut off or damaged .* download it again",
    )


def test_a_truncated_zip_and_gzip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "MLQA_V1.zip", {"dev-context-en-question-en.json": squad(50, "en")})
    path.write_bytes(path.read_bytes()[:-30])
    refused(tmp_path, path, "cut off or damaged", "mlqa")
    path = tmp_path / "NOTEEVENTS.csv.gz"
    path.write_bytes(
        gzip.compress(b"ROW_ID,SUBJECT_ID,CATEGORY,TEXT\n" + os.urandom(9000).hex().encode())[:-500]
    )
    refused(tmp_path, path, "cut off or damaged", "mimic_iii")


def test_a_flipped_byte_in_a_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "MLQA_V1.zip", {"dev-context-en-question-en.json": squad(50, "en")})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    refused(tmp_path, path, "cut off or damaged", "mlqa")


@pytest.mark.parametrize(
    "name", ["../en.json", "/etc/en.json", "a/../../en.json", "C:\\en.json", "..\\en.json"]
)
@pytest.mark.hostile("path traversal in members of archives", "refused, nothing is written outside")
def test_a_zip_that_leaves_its_folder(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "data.zip", {"en.json": squad(9, "en"), name: b"x"})
    refused(tmp_path, path, r"data.zip has a file that leaves the archive's folder", "squad_json")


@pytest.mark.parametrize(
    ("name", "kind"), [("../english_test.jsonl", tarfile.REGTYPE), ("x/../../e", tarfile.SYMTYPE)]
)
@pytest.mark.hostile("path traversal in members of archives", "refused, nothing is written outside")
def test_a_tar_that_leaves_its_folder(tmp_path: Path, name: str, kind: bytes) -> None:
    path = tmp_path / "english_XLSum_v2.0.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        member = tarfile.TarInfo(name)
        member.type = kind
        archive.addfile(member, io.BytesIO())
    refused(tmp_path, path, "leaves the archive's folder")


@pytest.mark.hostile("path traversal in members of archives", "refused, nothing is written outside")
def test_a_tar_with_a_link_for_a_file(tmp_path: Path) -> None:
    path = tmp_path / "english_XLSum_v2.0.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        member = tarfile.TarInfo("english_test.jsonl")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    refused(tmp_path, path, "'english_test.jsonl' is a link or a device")


@pytest.mark.hostile("archive bombs", "stopped at a limit")
def test_a_line_of_a_gigabyte(tmp_path: Path) -> None:
    said = r"english_train.jsonl:2: the line is longer than 64 MiB"
    line = json_lines([xlsum_row(1)])
    path = tmp_path / "english_train.jsonl"
    with path.open("wb") as file:
        file.write(line)
        file.truncate(1 << 30)
    refused(tmp_path, path, said)
    path.unlink()
    packed = tmp_path / "english_train.jsonl.gz"
    with gzip.open(packed, "wb", compresslevel=1) as zeros:
        zeros.write(line)
        for _ in range(66):
            zeros.write(bytes(1 << 20))
    refused(tmp_path, packed, said)


def test_a_document_that_is_far_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MAX_DOCUMENT_BYTES", 1 << 20)
    path = tmp_path / "en.json"
    with path.open("wb") as file:
        file.truncate((1 << 20) + 1)
    refused(tmp_path, path, r"en.json has more than 1 MiB", "squad_json")


def test_lines_that_are_no_utf8_or_no_json(tmp_path: Path) -> None:
    source = tmp_path / "english_test.jsonl"
    source.write_bytes(json_lines([xlsum_row(1)]) + "Süß\n".encode("latin-1") + b"{\n")
    card = small(tmp_path, "xlsum", bad_rows="error")
    said = r"english_test.jsonl:2: not UTF-8 \(byte 2 of the line\).*\n.*english_test.jsonl:3: not valid JSON"
    with pytest.raises(GraspError, match=said):
        prepare_card(card, source, tmp_path / "out")


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "english.txt").write_text("x")
    said = r"data has no rows of 'small-xlsum' in any language; files are named .*\. Download the archives"
    refused(tmp_path, tmp_path / "data", said)
    refused(tmp_path, tmp_path / "nowhere", r"nowhere does not exist: give the folder, archive or file")


def test_a_bz2_that_is_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "english_XLSum_v2.0.tar.bz2"
    path.write_bytes(bz2.compress(b"not a tar"))
    refused(tmp_path, path, "cut off or damaged")


def test_the_pool_is_of_train_and_of_nothing_else() -> None:
    """Official splits: what train leaves over, in the order that it was drawn in."""
    names = {split: [f"{split}{i}" for i in range(20)] for split in ("train", "dev", "test")}
    where = Path("a.jsonl"), 1, Pile(), 0
    items = {"en": {n: Item(n, (), s, *where) for s, found in names.items() for n in found}}
    sizes = {"en": Sizes(train=4, dev=3, micro_dev=2, test=5, pool=7)}
    chosen = sample_official(items, sizes, seed=1)["en"]
    assert len(chosen["pool"]) == 7
    assert all(name.startswith("train") for name in chosen["pool"])
    assert not set(chosen["pool"]) & set(chosen["train"])
    more = sample_official(items, {"en": Sizes(train=11, dev=3, micro_dev=2, test=5)}, seed=1)["en"]
    assert more["train"] == [*chosen["train"], *chosen["pool"]]
    assert len(more["pool"]) == 9  # at most 400, here what is left
