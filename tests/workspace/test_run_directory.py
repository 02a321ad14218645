"""Stages are whole or absent, skipped when done, and never delete what a user has."""

import gc
import json
import multiprocessing
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from grasp_lora.errors import GraspError
from grasp_lora.executors.execute import execute
from grasp_lora.lm.training import Training
from grasp_lora.paths import digest
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.lock import hold, is_held
from grasp_lora.workspace.records import RunPlan
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work, behind

CALLS = []


def write(resources, folder, *, text="x", fail=False, **given):
    CALLS.append(text)
    (folder / "out.txt").write_text(text)
    if fail:
        raise RuntimeError("killed")


WRITE = Work(write)


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def directory(path, **options):
    return RunDirectory(path, Resources(), **options)


def test_a_done_stage_is_skipped(tmp_path):
    run = directory(tmp_path)
    for _ in range(2):
        folder = run.make(Stage("a/b", WRITE, {"text": "one", "y": (2, 3), "training": Training(epochs=3)}))
    assert CALLS == ["one"]
    done = json.loads((folder / "done.json").read_text())
    inputs = done["inputs"]
    assert (inputs["text"], inputs["y"], inputs["training.epochs"]) == ("one", [2, 3], 3)
    assert done["outputs"] == {"out.txt": digest(folder / "out.txt")}
    assert done["seconds"] >= 0
    assert done["peak_memory_bytes"] > 1e6


def test_other_inputs_are_an_error_that_names_them(tmp_path):
    run = directory(tmp_path)
    run.make(Stage("a", WRITE, {"training": Training(epochs=1), "same": 0, "gone": 2}))
    with pytest.raises(GraspError, match=r"training\.epochs: was 1, now 2") as error:
        run.make(Stage("a", WRITE, {"training": Training(epochs=2), "same": 0, "new": None}))
    assert "gone: was 2, now absent" in str(error.value)
    assert "new: was absent, now None" in str(error.value)
    assert "same" not in str(error.value)
    assert "--force" in str(error.value)


def test_force_moves_the_old_one_aside(tmp_path):
    for number in (1, 2, 3):
        directory(tmp_path, force=True).make(Stage("a", WRITE, {"text": str(number)}))
    texts = {p.name: (p / "out.txt").read_text() for p in tmp_path.iterdir()}
    assert texts == {"a": "3", "a.replaced-1": "1", "a.replaced-2": "2"}


def test_force_keeps_a_stage_whose_inputs_are_the_same(tmp_path):
    for _ in range(2):
        directory(tmp_path, force=True).make(Stage("a", WRITE, {"text": "one"}))
    assert CALLS == ["one"]


def test_a_derived_stage_is_made_again_without_force(tmp_path):
    for text in ("one", "two"):
        directory(tmp_path).make(Stage("a", WRITE, {"text": text}, derived=True))
    assert (tmp_path / "a/out.txt").read_text() == "two"


def test_a_failed_stage_leaves_no_folder_and_the_next_try_starts_clean(tmp_path):
    run = directory(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        run.make(Stage("a", WRITE, {"text": "half", "fail": True}))
    assert not (tmp_path / "a").exists()
    (tmp_path / "a.partial" / "left.txt").write_text("left")
    folder = run.make(Stage("a", WRITE, {"text": "whole"}))
    assert {p.name for p in folder.iterdir()} == {"out.txt", "done.json"}
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_of_the_users_is_not_deleted(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    directory(tmp_path).make(Stage("a", WRITE, {}))
    assert (tmp_path / "a.replaced-1" / "mine.txt").read_text() == "mine"


def test_missing_and_damaged_stages_say_what_to_do(tmp_path):
    run, stage = directory(tmp_path), Stage("a", WRITE, {})
    with pytest.raises(GraspError, match="run that stage first"):
        run.make(Stage("b", WRITE, {"before": stage}))
    run.make(stage)
    (tmp_path / "a" / "done.json").write_text("{")
    with pytest.raises(GraspError, match=r"damaged done\.json.*--force to make it again"):
        run.make(stage)
    directory(tmp_path, force=True).make(stage)
    directory(tmp_path).make(stage)


@pytest.mark.parametrize(
    "content", ["", "null", "[]", '{"inputs": [1]}', '{"outputs": null}', '{"seconds": "x"}']
)
def test_force_mends_a_damaged_record(tmp_path, content):
    folder = directory(tmp_path).make(Stage("a", WRITE, {}))
    (folder / "done.json").write_text(content)
    with pytest.raises(GraspError, match="--force"):
        directory(tmp_path).make(Stage("a", WRITE, {}))
    directory(tmp_path, force=True).make(Stage("a", WRITE, {}))
    assert (folder / "out.txt").read_text() == "x"


@pytest.mark.parametrize("name", ["", ".", "a" * 300])
def test_outputs_whose_names_no_file_can_have_are_damage(tmp_path, name):
    folder = directory(tmp_path).make(Stage("a", WRITE, {}))
    done = json.loads((folder / "done.json").read_text())
    (folder / "done.json").write_text(json.dumps(done | {"outputs": {name: "0" * 64}}))
    with pytest.raises(GraspError, match=r"damaged.*--force to make it again"):
        directory(tmp_path).make(Stage("a", WRITE, {}))
    if len(name) < 300:
        with pytest.raises(GraspError, match=r"done\.json is damaged"):
            directory(tmp_path).results("a")


@pytest.mark.parametrize("text", [None, "changed"])
def test_outputs_that_are_gone_or_changed_are_noticed(tmp_path, text):
    folder = directory(tmp_path).make(Stage("a", WRITE, {}))
    (folder / "out.txt").unlink() if text is None else (folder / "out.txt").write_text(text)
    with pytest.raises(GraspError, match=r"a is damaged: out\.txt is missing or was changed.*--force"):
        directory(tmp_path).make(Stage("a", WRITE, {}))
    directory(tmp_path, force=True).make(Stage("a", WRITE, {}))
    assert (folder / "out.txt").read_text() == "x"


def test_the_order_of_a_mapping_counts(tmp_path):
    directory(tmp_path).make(Stage("a", WRITE, {"adapters": {"en": 1, "ar": 2}}))
    with pytest.raises(GraspError, match=r"adapters\.\(order\): was \['en', 'ar'\], now \['ar', 'en'\]"):
        directory(tmp_path).make(Stage("a", WRITE, {"adapters": {"ar": 2, "en": 1}}))


def test_a_file_where_a_folder_should_be_is_said(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(GraspError, match=r"write .*run: a file, or a link to nothing, has such a name"):
        directory(tmp_path / "run").make(Stage("a", WRITE, {}))


def test_of_a_file_above_a_stage_the_name_is_said(tmp_path):
    run = directory(tmp_path)
    (tmp_path / "learn").write_text("x")
    with pytest.raises(GraspError, match=r"cannot write \S*/learn: a file, or a link to nothing, has such"):
        run.make(Stage("learn/more/seed42", WRITE, {}))
    (tmp_path / "learn").unlink()
    assert run.make(Stage("learn/more/seed42", WRITE, {})).is_dir()


def test_a_stage_depends_on_what_the_ones_before_found_and_not_on_their_logs(tmp_path):
    first = Stage("a", WRITE, {"text": "one"})
    second = Stage("b", WRITE, {"text": "two", "before": first})
    run = directory(tmp_path)
    for stage in behind(second):
        run.make(stage)
    assert CALLS == ["one", "two"]
    done = json.loads((tmp_path / "a/done.json").read_text())
    done["outputs"] |= {"train_log.jsonl": "other", "tensorboard/events": "other"}
    (tmp_path / "a/done.json").write_text(json.dumps(done))
    run.make(second)
    assert CALLS == ["one", "two"]
    done["outputs"] |= {"out.txt": "other"}
    (tmp_path / "a/done.json").write_text(json.dumps(done))
    with pytest.raises(GraspError, match="before: was another"):
        run.make(second)


def test_only_some_stages_may_be_made(tmp_path):
    first = Stage("a", WRITE, {"text": "one"})
    second = Stage("b", WRITE, {"before": first})
    run = directory(tmp_path, only={"b"})
    with pytest.raises(GraspError, match="a is missing: run that stage first"):
        run.make(first)
    directory(tmp_path).make(first)
    run.make(first)
    run.make(second)
    with pytest.raises(GraspError, match="make that stage again first"):
        directory(tmp_path, only={"b"}, force=True).make(Stage("a", WRITE, {"text": "two"}))


def test_an_equal_stage_of_another_run_is_copied(tmp_path):
    twins: dict[str, Path] = {}
    one, other = (directory(tmp_path / name) for name in ("one", "other"))
    one.make(Stage("a", WRITE, {"text": "same"}), twins)
    other.make(Stage("b", WRITE, {"text": "same"}), twins)
    other.make(Stage("c", WRITE, {"text": "different"}), twins)
    other.make(Stage("d", Work(other_write), {"text": "same"}), twins)  # what it does is another thing
    assert CALLS == ["same", "different", "same"]
    assert (tmp_path / "other/b/out.txt").read_text() == "same"
    done = [json.loads((tmp_path / name / "done.json").read_text()) for name in ("one/a", "other/b")]
    assert done[0] == done[1]
    shutil.rmtree(tmp_path / "one")
    other.make(Stage("b", WRITE, {"text": "same"}))
    assert len(CALLS) == 3


def other_write(resources, folder, **given):
    write(resources, folder, **given)


def test_a_stage_of_an_earlier_version_is_refused_in_one_message(tmp_path):
    folder = directory(tmp_path).make(Stage("a", WRITE, {"text": "one"}))
    done = json.loads((folder / "done.json").read_text())
    del done["format"]
    (folder / "done.json").write_text(json.dumps(done))
    with pytest.raises(GraspError, match="by an earlier version") as error:
        directory(tmp_path).make(Stage("a", WRITE, {"text": "one"}))
    assert "text: was" not in str(error.value)


@dataclass(frozen=True)
class Holder:
    inner: object
    number: int = 1


def test_stages_are_found_wherever_they_are_given():
    a, b, c = (Stage(name, WRITE, {}) for name in "abc")
    d = Stage("d", WRITE, {"one": {"x": (a, 2)}, "two": Holder(Holder(b)), "three": c})
    last = Stage("e", WRITE, {"d": d, "a": a})
    assert [stage.name for stage in d.needs] == ["a", "b", "c"]
    assert [stage.name for stage in behind(last)] == ["a", "b", "c", "d", "e"]


def hold_then_die(folder, sender):
    with hold(folder):
        sender.send("held")
        time.sleep(60)


def test_a_stage_that_another_process_is_making_is_left_alone(tmp_path):
    partial = tmp_path / "a.partial"
    partial.mkdir()
    (partial / "half.txt").write_text("half")
    receiver, sender = multiprocessing.Pipe()
    maker = multiprocessing.get_context("spawn").Process(target=hold_then_die, args=(partial, sender))
    maker.start()
    try:
        assert receiver.recv() == "held"
        assert is_held(partial)
        with hold(partial) as got:
            assert got is False
        with pytest.raises(GraspError, match=r"another process is making .*a: wait"):
            directory(tmp_path).make(Stage("a", WRITE, {}))
        assert (partial / "half.txt").exists()
    finally:
        maker.kill()
        maker.join()
    assert is_held(partial) is False  # a killed process holds nothing
    assert directory(tmp_path).make(Stage("a", WRITE, {})).name == "a"


def slow(resources, folder, **given):
    time.sleep(0.3)
    (folder / "out.txt").write_text(given["text"])


def make_at(root, delay, together, sender):
    """What came of making a stage in each of a few runs, begun so long after the other process does."""
    for number, seconds in enumerate(DELAYS):
        run = directory(root / str(number), config="name: run\n")
        together.wait(60)
        time.sleep(seconds * delay)
        try:
            run.make(Stage("a", Work(slow), {"text": str(delay)}))
            sender.send("made")
        except (GraspError, OSError) as error:
            sender.send(f"{type(error).__name__}: {error}")


DELAYS = (0.0, 0.0, 0.002, 0.02, 0.05, 0.1)


@pytest.mark.slow
def test_of_two_processes_that_begin_together_one_makes_the_stage_and_one_says_so(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    together, pipes = spawn.Barrier(2), [multiprocessing.Pipe() for _ in range(2)]
    makers = [
        spawn.Process(target=make_at, args=(tmp_path, delay, together, pipe[1]))
        for delay, pipe in enumerate(pipes)
    ]
    for maker in makers:
        maker.start()
    try:
        for number in range(len(DELAYS)):
            said = [pipe[0].recv() if pipe[0].poll(60) else "nothing" for pipe in pipes]
            made = said.index("made")
            assert said[1 - made].startswith("GraspError: ")
            assert (tmp_path / str(number) / "a/out.txt").read_text() == str(made)
            assert not list((tmp_path / str(number)).glob("a.*"))
    finally:
        for maker in makers:
            maker.kill()
            maker.join()


def test_what_another_process_made_while_this_one_waited_for_it_is_not_made_again(tmp_path, monkeypatch):
    stage = Stage("a", WRITE, {})
    late, made = directory(tmp_path), []

    @contextmanager
    def held_until_made(folder):
        if not made:
            made.append(True)
            directory(tmp_path).make(stage)
        with hold(folder) as got:
            yield got

    monkeypatch.setattr("grasp_lora.workspace.directory.hold", held_until_made)
    late.make(stage)
    assert CALLS == ["x"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_run_looks_for_garbage_among_what_it_made_alone(tmp_path):
    seen = []
    stage = Stage("a", Work(lambda resources, folder: seen.append(gc.get_freeze_count())), {})
    execute([(directory(tmp_path), [stage])])
    assert seen[0] > 10_000  # torch, transformers
    assert gc.get_freeze_count() == 0


def look_at_lock(resources, folder, **given):
    (folder / "held.txt").write_text(str(is_held(folder)))


def test_a_stage_is_held_while_it_is_made_and_no_longer(tmp_path):
    folder = directory(tmp_path).make(Stage("a", Work(look_at_lock), {}))
    assert (folder / "held.txt").read_text() == "True"
    assert is_held(folder) is False
    assert {path.name for path in folder.iterdir()} == {"held.txt", "done.json"}
    assert is_held(tmp_path / "gone") is False


def test_what_the_run_will_make_is_written_when_its_first_stage_starts(tmp_path):
    stage = Stage("a", WRITE, {})
    run = directory(tmp_path / "run", config="name: run\n")
    run.plan = RunPlan({"a": 3}, ["merge"])
    assert not (tmp_path / "run").exists()
    run.make(stage)
    assert RunPlan.read(tmp_path / "run") == run.plan


@pytest.mark.parametrize("spoil", [None, b"", b"name: r", b"name: [", b"- a\n", b"\xff"])
def test_what_a_folder_says_of_its_run_is_written_again_where_it_was_lost(tmp_path, spoil):
    stages = [Stage(name, WRITE, {"text": name}) for name in ("one", "two")]
    run = directory(tmp_path, config="name: run\n")
    run.plan = RunPlan({"one": 3, "two": 3}, ["merge"])
    execute([(run, stages)])
    files = [tmp_path / name for name in ("config.yaml", "env.json", RunPlan.FILE)]
    whole = [path.read_bytes() for path in files]

    def spoil_all():
        for path in files:
            path.unlink() if spoil is None else path.write_bytes(spoil)

    spoil_all()
    execute([(run, stages)])
    assert [path.read_bytes() for path in files] == whole
    assert CALLS == ["one", "two"]
    spoil_all()
    spoilt = [path.exists() and path.read_bytes() for path in files]
    with pytest.raises(GraspError, match="text: was two, now other"):
        execute([(run, [stages[0], Stage("two", WRITE, {"text": "other"})])])
    assert [path.exists() and path.read_bytes() for path in files] == spoilt


def test_what_a_folder_says_of_its_run_stays_where_it_is_whole(tmp_path):
    execute([(directory(tmp_path, config="name: run\n"), [Stage("a", WRITE, {})])])
    (tmp_path / "config.yaml").write_text("name: run\nmethods: [other]\n")
    (tmp_path / "env.json").write_text("{}")
    execute([(directory(tmp_path, config="name: run\n"), [Stage("a", WRITE, {})])])
    assert (tmp_path / "config.yaml").read_text() == "name: run\nmethods: [other]\n"
    assert (tmp_path / "env.json").read_text() == "{}"
