"""A run whose rows are read as they are asked for makes what a run does that has them in memory."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer
from tests.methods.test_samples import write_pool

import grasp_lora
from grasp_lora.errors import GraspError
from grasp_lora.experiment import start
from grasp_lora.lm.encoding import Limits
from grasp_lora.methods.plan import plan
from grasp_lora.methods.ready import check_ready
from grasp_lora.tasks import kept, lazy
from grasp_lora.tasks.lazy import Lazy
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Fold, Rows
from grasp_lora.workspace.records import LOGS
from grasp_lora.workspace.resources import Resources

OVERRIDES = {
    "methods": ["joint"],
    "target.train_examples": 10,  # two of them the pool's
    "training.epochs": 1,
    "final.refit": False,
    "variants": {},
}


@pytest.fixture
def many(monkeypatch):
    """As if any number of rows were many."""

    def make_many() -> None:
        monkeypatch.setattr(kept, "IN_MEMORY", -1)
        monkeypatch.setattr(lazy, "FEW", -1)

    return make_many


def made(folder: Path) -> dict[str, Any]:
    """Stage -> the hashes of what it was given and of what it found, where these hold no clock times."""
    found = {}
    for path in sorted(folder.rglob("done.json")):
        name = path.parent.relative_to(folder).as_posix()
        if "eval/" not in name and name != "report":
            done = json.loads(path.read_text())
            outputs = {
                file: hash_ for file, hash_ in done["outputs"].items() if Path(file).parts[0] not in LOGS
            }
            found[name] = (done["inputs"], outputs)
    return found


@pytest.mark.slow
def test_a_run_of_many_rows_makes_the_same(tmp_path, many):
    folder = write_pool(tmp_path)
    one = grasp_lora.run(folder / "run.yaml", runs=folder / "one", **OVERRIDES)
    many()
    other = grasp_lora.run(folder / "run.yaml", runs=folder / "other", **OVERRIDES)
    first, second = made(one.folder), made(other.folder)
    assert {"adapters/en", "joint/seed42", "draws/1/joint/seed42"} <= first.keys()
    assert first == second


def test_rows_of_every_kind_are_those_of_a_list(tmp_path, many):
    write_pool(tmp_path)
    task = start(tmp_path / "run.yaml", {}).task
    rows = Rows(task, "ar", "train", 10)
    fold = Fold(1, 3, 0)
    dev = Rows(task, "ar", "dev")
    kinds = [
        rows,
        replace(rows, limit=3),
        replace(rows, limit=100),
        replace(rows, draw=2),
        replace(rows, also=(dev,)),
        replace(rows, draw=1, also=(dev,), fold=fold),
        replace(rows, fold=replace(fold, held_out=True)),
    ]
    before = Resources()
    as_lists = [before.examples(one) for one in kinds]
    digests = [before.rows_digest(one) for one in kinds]
    many()
    after = Resources()
    for one, expected, digest in zip(kinds, as_lists, digests, strict=True):
        found = after.examples(one)
        assert isinstance(found, Lazy)
        assert list(found) == expected
        assert after.rows_digest(one) == digest


def test_what_many_rows_share_is_said_before_the_run(tmp_path, many):
    write_pool(tmp_path)
    shared = (tmp_path / "ar-test.jsonl").read_text().splitlines()[0]
    with (tmp_path / "en-train.jsonl").open("a") as file:
        file.write(shared)
    many()
    x = start(tmp_path / "run.yaml", OVERRIDES | {"runs": tmp_path / "runs"})
    with pytest.raises(GraspError, match="the splits 'source en train' and 'test' share"):
        check_ready(x, plan(x), RunDirectory(x.config.folder, Resources()))


class _Backbone:
    tokenizer = tiny_tokenizer()
    model = tiny_llama()


def test_many_rows_are_encoded_as_they_are_asked_for(tmp_path, many, caplog):
    write_pool(tmp_path)
    rows = start(tmp_path / "run.yaml", {}).task
    limits = Limits(40, 2)
    resources = Resources()
    as_list = resources.encode(rows.examples("en", "train"), _Backbone(), limits)
    many()
    with caplog.at_level("INFO"):
        found = Resources().encode(rows.examples("en", "train"), _Backbone(), limits)
    assert isinstance(found, Lazy)
    assert list(found) == as_list
    assert "12 of 12 answers are longer than max_new_tokens = 2" in caplog.text
    with pytest.raises(GraspError, match=r"example en/train:1: its prompt has 6 tokens without the body"):
        Resources().encode(rows.examples("en", "train"), _Backbone(), Limits(5, 2))
