"""Who comes back late finds nothing under its name, and changes nothing."""

from pathlib import Path

import pytest

from grasp_lora.errors import GraspError
from grasp_lora.workspace.claims import claimed, gather, worked_in
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.records import Begun
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work


@pytest.fixture
def partial(tmp_path):
    folder = tmp_path / "a.partial"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/state").write_text("3")
    (folder / Begun.FILE).write_text("{}")
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_claim_takes_what_was_left_and_gives_it_back(partial):
    with claimed(partial) as folder:
        assert names(folder) == ["checkpoints"]
        assert worked_in(partial) == folder
        (folder / "out").write_text("x")
    assert names(partial) == [Begun.FILE, "checkpoints", "out"]
    assert worked_in(partial) == partial


def test_who_was_thought_dead_writes_where_it_counts_for_nothing(partial):
    with claimed(partial) as first:
        with claimed(partial) as second:
            assert not first.exists()
            assert names(second) == ["checkpoints"]
            (first / "checkpoints").mkdir(parents=True)  # it comes back, and makes its folders anew
            (first / "checkpoints/state").write_text("of the dead")
            (first / "out").write_text("of the dead")
            assert worked_in(partial) == second
            (second / "out").write_text("of the living")
        assert names(partial) == [Begun.FILE, "checkpoints", "out"]
        assert (partial / "checkpoints/state").read_text() == "3"
        assert (partial / "out").read_text() == "of the living"
        first.mkdir()  # or else the outer block says what the next test is about


def test_who_lost_its_claim_is_told(partial):
    with pytest.raises(GraspError, match=r"another process has taken over .*a.partial"), claimed(partial):
        claimed(partial).__enter__()


def test_a_claim_that_was_killed_loses_nothing(partial):
    killed = claimed(partial)
    folder = killed.__enter__()
    assert names(folder) == ["checkpoints"]
    gather(partial)
    assert names(partial) == [Begun.FILE, "checkpoints"]


def test_a_claim_that_was_killed_before_it_had_a_folder_loses_nothing(partial):
    (partial / ".claims").write_text("abc")
    gather(partial)
    assert names(partial) == [Begun.FILE, "checkpoints"]


def test_what_was_claimed_is_gone_on_with_by_whoever_makes_the_stage(tmp_path):
    found = []

    def work(resources, folder):
        found.append([path.name for path in folder.iterdir() if path.name != Begun.FILE])
        (folder / "half").write_text("x")
        if len(found) == 1:
            raise RuntimeError("killed")

    run, stage = RunDirectory(tmp_path, Resources()), Stage("a", Work(work, resumes=True), {})
    with pytest.raises(RuntimeError):
        run.make(stage)
    killed = claimed(tmp_path / "a.partial")
    assert names(killed.__enter__()) == ["half"]
    run.make(stage)
    assert found == [[], ["half"]]
    assert names(tmp_path / "a") == ["done.json", "half"]


def test_a_claim_that_was_killed_before_it_took_over_the_last_one_loses_nothing(partial, monkeypatch):
    first, second = claimed(partial), claimed(partial)  # kept: a generator that is collected gathers
    first.__enter__()
    rename = Path.rename

    def die(self, to):
        if self.is_dir():
            raise KeyboardInterrupt
        return rename(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            second.__enter__()
    gather(partial)
    assert names(partial) == [Begun.FILE, "checkpoints"]
