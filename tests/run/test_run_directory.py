"""Stages are whole or absent, skipped when done, and never delete what a user has."""

import json

import pytest

from grasp_lora.errors import GraspError
from grasp_lora.stages.run_directory import RunDirectory, digest


def writer(text, calls=None):
    def work(folder):
        (folder / "out.txt").write_text(text)
        if calls is not None:
            calls.append(text)

    return work


def test_a_done_stage_is_skipped(tmp_path):
    run, calls = RunDirectory(tmp_path), []
    for _ in range(2):
        folder = run.stage("a/b", {"x": 1, "y": (2, 3)}, writer("one", calls))
    assert calls == ["one"]
    done = json.loads((folder / "done.json").read_text())
    assert done["inputs"] == {"x": 1, "y": [2, 3]}
    assert done["outputs"] == {"out.txt": digest(folder / "out.txt")}
    assert done["seconds"] >= 0
    assert done["peak_memory_bytes"] > 1e6
    assert run.output("a/b", "out.txt") == digest(folder / "out.txt")


def test_other_inputs_are_an_error_that_names_them(tmp_path):
    run = RunDirectory(tmp_path)
    run.stage("a", {"training.epochs": 1, "same": 0, "gone": 2}, writer("one"))
    with pytest.raises(GraspError, match=r"training\.epochs: was 1, now 2") as error:
        run.stage("a", {"training.epochs": 2, "same": 0, "new": None}, writer("two"))
    assert "gone: was 2, now absent" in str(error.value)
    assert "new: was absent, now None" in str(error.value)
    assert "same" not in str(error.value)
    assert "--force" in str(error.value)
    assert (tmp_path / "a" / "out.txt").read_text() == "one"


def test_force_moves_the_old_one_aside(tmp_path):
    for number in (1, 2, 3):
        run = RunDirectory(tmp_path, force=True)
        run.stage("a", {"x": number}, writer(str(number)))
    texts = {p.name: (p / "out.txt").read_text() for p in tmp_path.iterdir()}
    assert texts == {"a": "3", "a.replaced-1": "1", "a.replaced-2": "2"}


def test_force_keeps_a_stage_whose_inputs_are_the_same(tmp_path):
    calls = []
    for _ in range(2):
        RunDirectory(tmp_path, force=True).stage("a", {"x": 1}, writer("one", calls))
    assert calls == ["one"]


def test_a_failed_stage_leaves_no_folder_and_the_next_try_starts_clean(tmp_path):
    def fail(folder):
        (folder / "half.txt").write_text("half")
        raise RuntimeError("killed")

    run = RunDirectory(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        run.stage("a", {}, fail)
    assert not (tmp_path / "a").exists()
    folder = run.stage("a", {}, writer("whole"))
    assert {p.name for p in folder.iterdir()} == {"out.txt", "done.json"}
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_of_the_users_is_not_deleted(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    RunDirectory(tmp_path).stage("a", {}, writer("new"))
    assert (tmp_path / "a.replaced-1" / "mine.txt").read_text() == "mine"


def test_missing_and_damaged_stages_say_what_to_do(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(GraspError, match="run that stage first"):
        run.output("a", "out.txt")
    run.stage("a", {}, writer("x"))
    (tmp_path / "a" / "done.json").write_text("{")
    with pytest.raises(GraspError, match="damaged"):
        run.output("a", "out.txt")
