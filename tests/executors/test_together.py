"""Stages side by side make what they make one by one, whatever becomes of who does the work."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from tests.helpers.run import write_setting
from tests.helpers.waiting import wait_for
from tests.soak import CONFIG, differing, files

import grasp_lora
from grasp_lora.errors import GraspError
from grasp_lora.executors.execute import execute
from grasp_lora.executors.settings import Executor
from grasp_lora.executors.workers import LOST, Workers, _gpu
from grasp_lora.stopping import Interrupted
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work, behind

TWO = Executor(jobs=2, threads=1)


def note(board, what):
    with (Path(board) / "said").open("a") as file:
        file.write(f"{what}\n")


def said(board):
    file = board / "said"
    return file.read_text().split() if file.exists() else []


def write(resources, folder, *, board, name, **needed):
    note(board, name)
    (folder / "out.txt").write_text(name)


def meet(resources, folder, *, board, name, other):
    """Ends only where the other one is being made as well."""
    (Path(board) / name).touch()
    until = time.monotonic() + 60
    while not (Path(board) / other).exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    (folder / "pid").write_text(str(os.getpid()))


def die(resources, folder, *, board, name, times, number=int(signal.SIGKILL)):
    note(board, name)
    (folder / "left").write_text("left")
    if said(Path(board)).count(name) <= times:
        os.kill(os.getpid(), number)
        time.sleep(60)
    (folder / "out.txt").write_text("done")


def fail(resources, folder, *, board, name):
    raise GraspError("that cannot be made")


def linger(resources, folder, *, board, name):
    try:
        (Path(board) / name).touch()
        with resources.stopping.looked_at():
            until = time.monotonic() + 60
            while time.monotonic() < until:
                resources.stopping.end("asked")
                time.sleep(0.01)
    finally:
        note(board, f"{name}-ended")


def stage(work, name, board, **given):
    return Stage(name, Work(work), {"board": str(board), "name": name, **given})


def directory(path):
    return RunDirectory(path, Resources(), config="name: run\n")


def test_stages_are_made_side_by_side_each_after_those_it_needs(tmp_path, caplog):
    one, two = stage(meet, "one", tmp_path, other="two"), stage(meet, "two", tmp_path, other="one")
    last = stage(write, "last", tmp_path, needed=(one, two))
    run = directory(tmp_path / "run")
    with caplog.at_level("INFO", "grasp_lora"):
        execute([(run, behind(last))], TWO)
    assert run.done("last").inputs["needed"] == [run.results("one"), run.results("two")]
    pids = {(run.path(name) / "pid").read_text() for name in ("one", "two")}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert "1 of 3 stages are done" in caplog.text
    assert not (tmp_path / "run/process.json").exists()
    execute([(run, behind(last))], TWO)
    assert said(tmp_path) == ["last"]


def test_what_would_be_equal_is_made_once(tmp_path):
    given = {"board": str(tmp_path), "name": "a"}
    runs = [directory(tmp_path / name) for name in ("one", "two", "three")]
    execute([(run, [Stage("a", Work(write), given)]) for run in runs], Executor(jobs=3, threads=1))
    assert said(tmp_path) == ["a"]
    assert {(run.path("a") / "out.txt").read_text() for run in runs} == {"a"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_lost_is_replaced(tmp_path, caplog, number):
    run, one = directory(tmp_path / "run"), stage(die, "one", tmp_path, times=1, number=int(number))
    other = stage(write, "other", tmp_path)
    with caplog.at_level("INFO", "grasp_lora"):
        execute([(run, [one, other])], TWO)
    assert said(tmp_path).count("one") == 2
    assert "[1/2] one: its process was lost; another one goes on" in caplog.text
    assert run.done("one").outputs.keys() == {"left", "out.txt"}


def test_a_stage_that_loses_every_process_ends_the_run(tmp_path):
    run, one = directory(tmp_path / "run"), stage(die, "one", tmp_path, times=99)
    with pytest.raises(GraspError, match=rf"one: its process was lost {LOST} times.*executor.jobs to fewer"):
        execute([(run, [one])], TWO)
    assert said(tmp_path) == ["one"] * LOST


def test_where_one_fails_the_others_are_asked_to_end(tmp_path):
    run = directory(tmp_path / "run")
    stages = [stage(linger, "long", tmp_path), stage(fail, "bad", tmp_path), stage(write, "later", tmp_path)]
    began = time.monotonic()
    with pytest.raises(GraspError, match="that cannot be made"):
        execute([(run, stages)], TWO)
    assert time.monotonic() - began < 50  # it would linger for 60
    assert set(said(tmp_path)) <= {"long-ended"}
    assert not run.is_done("later")
    assert (tmp_path / "run/long.partial").exists()


def test_what_fails_before_any_process_is_there_ends_the_others_too(tmp_path):
    run = directory(tmp_path / "run")
    run.make(stage(write, "bad", tmp_path))
    began = time.monotonic()
    with pytest.raises(GraspError, match="bad was made with other settings"):
        execute([(run, [stage(linger, "long", tmp_path), stage(write, "bad", tmp_path / "other")])], TWO)
    assert time.monotonic() - began < 50
    assert not run.is_done("long")


def test_a_signal_is_handed_on(tmp_path):
    run = directory(tmp_path / "run")

    def ask():
        wait_for((tmp_path / "long").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    asks = threading.Thread(target=ask)
    asks.start()
    with pytest.raises(Interrupted, match="the same command continues") as raised:
        execute([(run, [stage(linger, "long", tmp_path)])], TWO)
    asks.join()
    assert raised.value.signal == signal.SIGTERM
    assert "long-ended" in said(tmp_path)
    assert not run.is_done("long")


def test_what_memory_does_not_hold_waits(tmp_path, monkeypatch):
    run = directory(tmp_path)
    first, second = stage(write, "one", tmp_path), stage(write, "two", tmp_path)
    with Workers(2, 1) as workers:
        assert workers.fits(second, run, [first])
        monkeypatch.setattr(workers, "_memory", lambda stage, run: (100, 0))
        workers._needs = dict.fromkeys(workers._needs, (100, 0))
        monkeypatch.setattr(workers, "_free", (199, 0))
        assert workers.fits(second, run, [])
        assert not workers.fits(second, run, [first])
        monkeypatch.setattr(workers, "_free", (200, 0))
        assert workers.fits(second, run, [first])
        workers._needs = dict.fromkeys(workers._needs, (100, 1))
        assert not workers.fits(second, run, [first])


@pytest.mark.parametrize(("seen", "found"), [(None, ["0", "1", "2", "0"]), ("4,5,7", ["4", "5", "7", "4"])])
def test_workers_have_gpus_in_turn(monkeypatch, seen, found):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert _gpu(0) is None  # one, or none: nothing is said
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert [_gpu(number) for number in range(4)] == found


def test_the_executor_by_its_name():
    assert Executor.model_validate("local") == Executor.model_validate({"where": "local"}) == Executor()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("together"), CONFIG.replace("NAME", "whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        grasp_lora.run("run.yaml")
    return folder


@pytest.mark.slow
def test_two_at_a_time_make_the_same_files(whole, monkeypatch):
    monkeypatch.chdir(whole)
    grasp_lora.run("run.yaml", name="two", executor={"jobs": 2})
    assert list(differing(files(whole / "runs/whole"), files(whole / "runs/two"))) == []
    (whole / "other.yaml").write_text("extends: run.yaml\nname: other\nexecutor: {jobs: 2}\n")
    with pytest.raises(GraspError, match="several experiments have one executor"):
        grasp_lora.run(["run.yaml", "other.yaml"])


def begin(folder, name):
    command = [
        sys.executable,
        "-m",
        "grasp_lora.cli.main",
        "run",
        "run.yaml",
        f"name={name}",
        "executor.jobs=2",
    ]
    return subprocess.Popen(command, cwd=folder, start_new_session=True)


def workers_of(process):
    return [one for one in psutil.Process(process.pid).children() if "spawn_main" in " ".join(one.cmdline())]


def ended_after_a_step(run):
    """Whether each training that was begun has a checkpoint of the last step in its log."""
    found = []
    for log in run.rglob("adapters/*.partial/**/train_log.jsonl"):
        steps = [row["step"] for row in map(json.loads, log.read_text().splitlines()) if "step" in row]
        saved = [int(path.parent.name.split("-")[1]) for path in log.parent.rglob("checkpoint-*/whole.json")]
        found.append((max(steps, default=0), max(saved, default=0)))
    return all(step <= checkpoint for step, checkpoint in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["worker", *(pytest.param(what, marks=pytest.mark.rare) for what in ("driver", "asked"))]
)
def test_a_kill_changes_nothing(whole, what):
    """Of a worker in the middle, of who directs them, and a scheduler's signal."""
    run = whole / "runs" / what
    process = begin(whole, what)
    wait_for(lambda: list(run.rglob("adapters/*.partial/*.partial/checkpoints/*/whole.json")))
    workers = workers_of(process)
    assert len(workers) == 2
    if what == "worker":
        workers[0].kill()
        assert process.wait(300) == 0
    else:
        process.send_signal(signal.SIGKILL if what == "driver" else signal.SIGTERM)
        assert process.wait(60) == (-signal.SIGKILL if what == "driver" else 128 + signal.SIGTERM)
        psutil.wait_procs(workers, 60)
        assert not any(worker.is_running() for worker in workers)
        assert ended_after_a_step(run)
        assert begin(whole, what).wait(300) == 0
    assert list(differing(files(whole / "runs/whole"), files(run))) == []
    assert json.loads((run / "adapters/ar/done.json").read_text())["steps"]
