"""The hub's Parquet conversions, from a cache made here; one test uses the network where there is one."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.sources import SMALL, all_rows, json_lines, rows, small, tar_bz2, xlsum_row

from grasp_lora.data.folder import read_manifest
from grasp_lora.data.prepare import prepare_card
from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import load_task

pyarrow = pytest.importorskip("pyarrow")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONVERSION = "refs/convert/parquet"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's library, which is offline in all tests."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("GRASP_CACHE", str(tmp_path / "grasp"))
    return tmp_path / "hub"


def snapshot(cache: Path, repository: str, revision: str) -> Path:
    """A snapshot's folder, and the reference to it, as the hub's library lays them out."""
    root = cache / f"datasets--{repository.replace('/', '--')}"
    reference = root / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(COMMIT)
    return root / "snapshots" / COMMIT


def parquet(path: Path, values: Sequence[dict[str, Any]]) -> None:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(values)), path)


def fake_xlsum(cache: Path, languages: Sequence[str] = ("english", "arabic")) -> None:
    folder = snapshot(cache, "csebuetnlp/xlsum", CONVERSION)
    for language in languages:
        for i, split in enumerate(("train", "validation", "test")):
            values = [xlsum_row(10 * i + n, language) for n in range(6)]
            parquet(folder / language / split / "0000.parquet", values[:3])
            parquet(folder / language / split / "0001.parquet", values[3:])


def test_xlsum_is_read_from_its_conversion(cache: Path, tmp_path: Path) -> None:
    fake_xlsum(cache)
    folder = prepare_card(small(tmp_path, "xlsum"), languages=["en", "ar"])
    assert folder == tmp_path / "grasp" / "data" / "small-xlsum-ar-en"
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest["counts"] == {"en": SMALL, "ar": SMALL}
    assert manifest["inputs"]["origins"] == [
        {"hub": "csebuetnlp/xlsum", "revision": CONVERSION, "commit": COMMIT}
    ]
    ids = {split: {row["id"] for row in found["ar"]} for split, found in all_rows(folder).items()}
    assert ids["train"] <= {f"world-{n}" for n in range(6)}
    assert ids["dev"] | ids["micro_dev"] <= {f"world-{n}" for n in range(10, 16)}
    assert ids["test"] <= {f"world-{n}" for n in range(20, 26)}


def test_it_is_prepared_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_xlsum(cache)
    card = small(tmp_path, "xlsum")
    folder = prepare_card(card, languages=["en"])
    monkeypatch.setattr("grasp_lora.data.prepare.read_corpus", None)
    assert prepare_card(card, languages=["en"]) == folder
    (folder / "en" / "test.jsonl").write_text("changed")
    with pytest.raises(TypeError):
        prepare_card(card, languages=["en"])


def test_the_same_rows_from_hub_and_archive_give_the_same_splits(cache: Path, tmp_path: Path) -> None:
    fake_xlsum(cache)
    members = {
        f"english_{split}.jsonl": json_lines([xlsum_row(10 * i + n) for n in range(6)])
        for i, split in enumerate(("train", "val", "test"))
    }
    card = small(tmp_path, "xlsum")
    prepare_card(card, tar_bz2(tmp_path / "english.tar.bz2", members), tmp_path / "a", languages=["en"])
    prepare_card(card, None, tmp_path / "b", languages=["en"])
    assert all_rows(tmp_path / "a") == all_rows(tmp_path / "b")


def test_without_pyarrow_nothing_is_downloaded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(GraspError, match=r'pyarrow is missing: pip install "grasp-lora\[data\]"'):
        prepare_card(small(tmp_path, "xlsum"))


def test_mlqa_rows_of_the_hub(cache: Path, tmp_path: Path) -> None:
    folder = snapshot(cache, "facebook/mlqa", CONVERSION)
    for split, first, last in (("validation", 0, 4), ("test", 4, 12)):
        values = [
            {
                "context": f"Paragraph {n} has answer{n}.{i}.",
                "question": f"What does {n}.{i} have?",
                "answers": {"answer_start": [17], "text": [f"answer{n}.{i}"]},
                "id": f"q{n}.{i}",
            }
            for n in range(first, last)
            for i in range(2)
        ]
        parquet(folder / "mlqa.ar.ar" / split / "0000.parquet", values)
    prepare_card(small(tmp_path, "mlqa"), None, tmp_path / "out", languages=["ar"])
    [example, *_] = load_task(tmp_path / "out").examples("ar", "dev")
    assert example.target.startswith("answer")
    assert example.references == (example.target,)


def test_wikilingua_and_scitldr_rows_of_the_hub(cache: Path, tmp_path: Path) -> None:
    guides = [
        {
            "url": f"https://www.wikihow.com/{n}",
            "article": {
                "section_name": ["One", "Two"],
                "document": [f"Do {n}.1.", f"Do {n}.2."],
                "summary": [f"Sum {n}.1", f"Sum {n}.2"],
            },
        }
        for n in range(8)
    ]
    parquet(
        snapshot(cache, "esdurmus/wiki_lingua", CONVERSION) / "english" / "train" / "0000.parquet", guides
    )
    prepare_card(small(tmp_path, "wikilingua"), None, tmp_path / "wl", languages=["en"])
    row = rows(tmp_path / "wl", "en", "train")[0]
    assert row["id"].startswith("https://www.wikihow.com/")
    assert row["document"].replace("Do", "Sum").rstrip(".") == row["summary"]
    papers = [
        {"source": ["a", f"b{n}"], "paper_id": f"p{n}", "ic": True, "target": [f"t{n}"]} for n in range(18)
    ]
    folder = snapshot(cache, "allenai/scitldr", CONVERSION) / "AIC"
    for i, split in enumerate(("train", "validation", "test")):
        parquet(folder / split / "0000.parquet", papers[i * 6 : i * 6 + 6])
    prepare_card(small(tmp_path, "scitldr"), None, tmp_path / "tldr")
    row = rows(tmp_path / "tldr", "en", "test")[0]
    number = row["id"].removeprefix("p")
    assert row == {"id": f"p{number}", "text": f"a b{number}", "tldr": f"t{number}", "tldrs": [f"t{number}"]}


def test_what_is_said_when_the_hub_has_it_not(cache: Path, tmp_path: Path) -> None:
    card = small(tmp_path, "xlsum")
    with pytest.raises(
        GraspError, match=r"csebuetnlp/xlsum could not be read: .*\nWithout the hub: Download the archives"
    ):
        prepare_card(card)
    fake_xlsum(cache, ["english"])
    with pytest.raises(GraspError, match=r"the hub's csebuetnlp/xlsum has no rows of 'small-xlsum' in ar;"):
        prepare_card(card, languages=["en", "ar"])


def test_half_of_a_conversion_is_refused(cache: Path, tmp_path: Path) -> None:
    folder = snapshot(cache, "csebuetnlp/xlsum", CONVERSION)
    parquet(folder / "english" / "partial-train" / "0000.parquet", [xlsum_row(1)])
    with pytest.raises(GraspError, match=r"only the beginning of the data"):
        prepare_card(small(tmp_path, "xlsum"), languages=["en"])


def test_without_a_conversion_the_original_archive_is_read(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grasp_lora.data.sources import hub

    def none(repository: str, revision: str, configs: Sequence[str]) -> Path:
        raise hub.NoConversion(f"{repository} has no revision {revision}")

    monkeypatch.setattr(hub, "download", none)
    folder = snapshot(cache, "csebuetnlp/xlsum", "main") / "data"
    folder.mkdir(parents=True)
    members = {
        f"english_{split}.jsonl": json_lines([xlsum_row(10 * i + n) for n in range(6)])
        for i, split in enumerate(("train", "val", "test"))
    }
    tar_bz2(folder / "english_XLSum_v2.0.tar.bz2", members)
    prepare_card(small(tmp_path, "xlsum"), None, tmp_path / "out", languages=["en"])
    assert len(rows(tmp_path / "out", "en", "train")) == SMALL["train"]
    with pytest.raises(
        GraspError, match=r"facebook/mlqa has no revision refs/convert/parquet: Download MLQA_V1.zip"
    ):
        prepare_card(small(tmp_path, "mlqa"), None, tmp_path / "other")


def test_a_damaged_parquet_file_is_named(cache: Path, tmp_path: Path) -> None:
    fake_xlsum(cache)
    [broken] = (cache).glob("*/snapshots/*/english/test/0000.parquet")
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(
        GraspError, match=r"english/test/0000.parquet: not a readable Parquet file after row 0"
    ):
        prepare_card(small(tmp_path, "xlsum"), languages=["en"])


@pytest.mark.network
def test_the_real_hub(tmp_path: Path) -> None:
    """SciTLDR, the smallest: its conversion has the splits and columns that its card says."""
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        pytest.skip("no network")
    code = (
        "from grasp_lora.data.card import find_card\n"
        "from grasp_lora.data.prepare import prepare_card\n"
        "print(prepare_card(find_card('scitldr')))"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "0",
        "GRASP_CACHE": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(Path(done.stdout.strip()))
    assert manifest is not None
    assert manifest["counts"] == {"en": {"train": 50, "dev": 50, "micro_dev": 16, "test": 618}}
