"""Runs that are ended, by a signal, a full disk or a kill, and go on."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.helpers.run import write_setting
from tests.soak import CONFIG, differing, files, soak

from grasp_lora.cli.main import main
from grasp_lora.errors import GraspError
from grasp_lora.executors.execute import execute
from grasp_lora.experiment import start
from grasp_lora.lm.saving import SaveOften, SavingTrainer
from grasp_lora.methods.plan import plan
from grasp_lora.paths import digest
from grasp_lora.reporting.progress import BETWEEN, progress_of
from grasp_lora.stopping import Interrupted
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.files import read_lines
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work, behind


def train(name, **overrides):
    """The trainings of a run, and what they need: neither evaluation nor report, which take the most time."""
    x = start("run.yaml", {"name": name, "methods": ["grasp"], **overrides})
    stages = behind(*(stage for stage in plan(x) if stage.work.resumes))
    resources = Resources(checkpoint_every=x.config.checkpoint_every)
    execute([(RunDirectory(x.config.folder, resources, config=x.config.dump()), stages)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("whole"), CONFIG.replace("NAME", "whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train("whole")
    return folder


@pytest.fixture
def setting(whole, monkeypatch):
    monkeypatch.chdir(whole)
    yield whole
    shutil.rmtree(whole / "runs/other", ignore_errors=True)


@pytest.fixture
def at_step(monkeypatch):
    """Does something at the end of a step of a kind of stage, once."""

    def when(stage, step, do):
        original, done = SaveOften.on_step_end, []

        def on_step_end(self, args, state, control, **rest):
            if f"/{stage}/" in args.output_dir and state.global_step == step and not done:
                done.append(step)
                do()
            original(self, args, state, control, **rest)

        monkeypatch.setattr(SaveOften, "on_step_end", on_step_end)
        return done

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let jobs beside them ignore it
    yield when
    signal.signal(signal.SIGINT, before)


def go_on_and_compare(setting):
    train("other")
    assert list(differing(files(setting / "runs/whole"), files(setting / "runs/other"))) == []
    left = [p for p in (setting / "runs/other").rglob("*") if "partial" in p.name or "checkpoint" in p.name]
    assert left == []
    assert not list((setting / "runs/other").rglob(".begun.json"))


def passes(run_folder, stage):
    done = json.loads((run_folder / stage / "done.json").read_text())
    return done["forward_examples"], done["backward_examples"], done["steps"]


@pytest.mark.parametrize(("stage", "step"), [("learn", 7), pytest.param("final", 8, marks=pytest.mark.slow)])
def test_a_signal_ends_after_the_step_and_the_same_command_goes_on(setting, at_step, stage, step):
    at_step(stage, step, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(
        Interrupted, match=rf"ended after step {step}; the same command goes on there"
    ) as raised:
        train("other")
    assert raised.value.signal == signal.SIGINT
    (checkpoint,) = (setting / "runs/other" / stage).rglob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{step}"
    assert not (setting / "runs/other/process.json").exists()
    go_on_and_compare(setting)


@pytest.mark.slow
def test_the_second_signal_ends_at_once(setting, at_step):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step("learn", 7, twice)
    with pytest.raises(Interrupted, match="continues with what is not done"):
        train("other")
    (checkpoint,) = (setting / "runs/other/learn").rglob("checkpoint-*")
    assert checkpoint.name == "checkpoint-6"
    go_on_and_compare(setting)


@pytest.mark.slow
def test_a_signal_at_the_last_step_lets_the_stage_finish(setting, at_step):
    at_step("learn", 24, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train("other")
    assert (setting / "runs/other/learn/seed42/done.json").exists()
    go_on_and_compare(setting)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_exit_code_says_the_signal(setting, at_step, capsys, number, code):
    at_step("adapters", 3, lambda: signal.raise_signal(number))
    assert main(["run", "run.yaml", "name=other", "methods=[sequential]"]) == code
    assert (
        "grasp: interrupted; it ended after step 3; the same command goes on there" in capsys.readouterr().err
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_without_checkpoints_it_ends_at_once_and_begins_again(setting, at_step):
    at_step("learn", 7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match="begins this training again"):
        train("other", checkpoint_every=None)
    assert not list((setting / "runs/other").rglob("checkpoint-*"))
    train("other", checkpoint_every=None)
    assert list(differing(files(setting / "runs/whole"), files(setting / "runs/other"))) == []


@pytest.mark.slow
def test_a_damaged_checkpoint_is_not_used(setting, at_step, caplog):
    at_step("learn", 7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train("other")
    (optimizer,) = (setting / "runs/other/learn").rglob("optimizer.pt")
    content = bytearray(optimizer.read_bytes())
    content[len(content) // 2] ^= 1
    optimizer.write_bytes(content)
    go_on_and_compare(setting)
    assert "checkpoint-7 is damaged and is not used" in caplog.text


def test_other_settings_begin_anew_and_what_was_begun_is_kept(setting, at_step, caplog, capsys):
    at_step("learn", 7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train("other", **{"control.every": 2})
    assert main(["clean", "runs/other"]) == 0
    assert "unfinished stage, whose training goes on after step 7" in " ".join(
        capsys.readouterr().out.split()
    )
    train("other")
    found = {k: v for k, v in files(setting / "runs/other").items() if ".replaced-" not in k}
    assert list(differing(files(setting / "runs/whole"), found)) == []
    assert "seed42 was begun with other settings and not finished: control.every: was 2, now 3" in caplog.text
    kept = setting / "runs/other/learn/seed42.partial.replaced-1"
    assert (kept / "checkpoints/checkpoint-7/whole.json").exists()
    assert main(["clean", "runs/other"]) == 0
    assert "begun with other settings" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_ended_in_order_is_not_called_running(setting, at_step):
    at_step("learn", 7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train("other")
    assert progress_of(setting / "runs/other", time.time() + BETWEEN).state == "stopped"


def test_a_link_to_a_folder_is_a_run_and_one_to_nothing_is_said(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "far")
    RunDirectory(tmp_path / "run", Resources()).make(Stage("a", Work(write), {}))
    assert (tmp_path / "far/a/done.json").exists()
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    with pytest.raises(GraspError, match="a file, or a link to nothing, has such a name"):
        RunDirectory(tmp_path / "lost", Resources()).make(Stage("a", Work(write), {}))


@pytest.mark.slow
def test_what_was_spent_before_the_end_counts(setting, at_step):
    at_step("final", 8, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train("other")
    (state,) = (setting / "runs/other/final").rglob("CarriesCost.json")
    seconds = json.loads(state.read_text())["values"]["seconds"]
    train("other")
    done = json.loads((setting / "runs/other/final/seed42/done.json").read_text())
    assert done["seconds"] > seconds > 0
    assert passes(setting / "runs/other", "final/seed42") == passes(setting / "runs/whole", "final/seed42")


@pytest.mark.hostile("learning rates that explode", "stops, says the step, keeps the last good checkpoint")
def test_an_explosion_says_the_step_and_keeps_the_last_good_checkpoint(setting, monkeypatch):
    original = SavingTrainer._save_checkpoint

    def explode(self, model, trial):
        if "/learn/" in self.args.output_dir and self.state.global_step == 6:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("inf"))
        original(self, model, trial)

    monkeypatch.setattr(SavingTrainer, "_save_checkpoint", explode)
    with pytest.raises(GraspError, match="the weights at step 6 are not finite; lower the learning rate"):
        train("other")
    (checkpoint,) = (setting / "runs/other/learn").rglob("checkpoint-*")
    assert checkpoint.name == "checkpoint-4"
    monkeypatch.undo()
    monkeypatch.chdir(setting)
    go_on_and_compare(setting)


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (PermissionError(13, "Permission denied"), GraspError, "Permission denied"),
        (RuntimeError("file write failed"), GraspError, "file write failed"),
        (RuntimeError("out of memory"), RuntimeError, "^out of memory$"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_says_why(setting, monkeypatch, raised, kind, said):
    original = SavingTrainer._save_optimizer_and_scheduler

    def fail(self, folder):
        if "/learn/" in self.args.output_dir and self.state.global_step == 4:
            raise raised
        original(self, folder)

    monkeypatch.setattr(SavingTrainer, "_save_optimizer_and_scheduler", fail)
    with pytest.raises(kind, match=said) as error:
        train("other")
    if kind is GraspError:
        assert "the checkpoint at step 4 cannot be written to " in str(error.value)
        assert str(error.value).endswith("run the same command: it goes on from checkpoint-3")
    (checkpoint,) = (setting / "runs/other/learn").rglob("checkpoint-*")
    assert checkpoint.name == "checkpoint-3"


def hold(root, held, end):
    directory = RunDirectory(root, Resources())
    with directory.held():
        held.set()
        end.wait(60)


def test_the_second_process_is_told_who_makes_the_run(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "run", held, end))
    other.start()
    assert held.wait(60)
    ours = RunDirectory(tmp_path / "run", Resources())
    with pytest.raises(GraspError, match=rf"run is being made by process {other.pid} on \S+, since 2"):
        ours.make(Stage("a", Work(write), {}))
    os.kill(other.pid, signal.SIGKILL)  # it has no chance to tidy up
    other.join()
    assert (tmp_path / "run/process.json").exists()
    ours.make(Stage("a", Work(write), {}))
    assert not (tmp_path / "run/process.json").exists()


def write(resources, folder, size=10):
    (folder / "out").write_bytes(b"x" * size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "stage", "step"),
    [("joint", "joint", 13), ("optuna", "optuna-seed42.partial/checkpoints", 14), ("rank_check", "learn", 7)],
)
def test_the_other_trainings_go_on_too(setting, at_step, method, stage, step):
    more = {"methods": ["grid", method] if method == "rank_check" else [method]}
    train("third", **more)
    at_step(stage, step, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match=f"ended after step {step}"):
        train("other", **more)
    train("other", **more)
    assert list(differing(files(setting / "runs/third"), files(setting / "runs/other"))) == []
    assert not list((setting / "runs/other").rglob("trial*-*"))
    shutil.rmtree(setting / "runs/third")


def test_the_logs_go_on_as_if_nothing_had_happened(setting, at_step):
    at_step("learn", 7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train("other")
    train("other")
    logs = [read_lines(setting / f"runs/{name}/learn/seed42/train_log.jsonl") for name in ("whole", "other")]
    one, other = (
        [{k: v for k, v in line.items() if not re.search("second|runtime", k)} for line in log]
        for log in logs
    )
    assert one == other
    assert any("loss" in line for line in one)


def test_a_state_that_does_not_fit_is_in_nobodys_way(setting, at_step, caplog):
    at_step("learn", 7, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train("other")
    (marker,) = (setting / "runs/other/learn").rglob("GraspCallback.json")
    said = json.loads(marker.read_text())
    del said["values"]["step"]
    marker.write_text(json.dumps(said))
    (whole,) = (setting / "runs/other/learn").rglob("whole.json")
    hashes = json.loads(whole.read_text())
    whole.write_text(json.dumps(hashes | {"grasp_lora/GraspCallback.json": digest(marker)}))
    go_on_and_compare(setting)
    assert "step' is missing" in caplog.text
    assert "this training begins again" in caplog.text


def test_a_twin_replaces_what_was_begun(tmp_path):
    tries = []

    def work(resources, folder):
        tries.append(folder)
        (folder / "out").write_text("x")
        if len(tries) == 1:
            (folder / "half").write_text("x")
            raise RuntimeError("killed")

    shared = Work(work, resumes=True)
    first, second = RunDirectory(tmp_path / "one", Resources()), RunDirectory(tmp_path / "two", Resources())
    with pytest.raises(RuntimeError):
        second.make(Stage("a", shared, {}))
    twins = {}
    first.make(Stage("a", shared, {}), twins)
    folder = second.make(Stage("a", shared, {}), twins)
    assert sorted(path.name for path in folder.iterdir()) == ["done.json", "out"]
    assert len(tries) == 2


def test_what_other_inputs_began_is_not_gone_on_with(tmp_path):
    def work(resources, folder, text):
        (folder / text).write_text("x")
        if text == "half":
            raise RuntimeError("killed")

    directory, shared = RunDirectory(tmp_path, Resources()), Work(work, resumes=True)
    with pytest.raises(RuntimeError):
        directory.make(Stage("a", shared, {"text": "half"}))
    folder = directory.make(Stage("a", shared, {"text": "whole"}))
    assert sorted(path.name for path in folder.iterdir()) == ["done.json", "whole"]


def test_an_unknown_folder_of_such_a_name_is_moved_aside(tmp_path):
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial/mine.txt").write_text("mine")
    RunDirectory(tmp_path, Resources()).make(Stage("a", Work(write), {}))
    assert (tmp_path / "a.partial.replaced-1/mine.txt").read_text() == "mine"


def test_a_kill_between_the_name_and_the_record_costs_nothing(tmp_path):
    made = []

    def work(resources, folder):
        made.append((folder / "log").exists())
        (folder / "log").write_text("x")

    directory, stage = RunDirectory(tmp_path, Resources()), Stage("a", Work(work, resumes=True), {})
    folder = directory.make(stage)
    inputs = json.loads((folder / "done.json").read_text())
    (folder / "done.json").unlink()
    begun = {"work": stage.work.name, "format": inputs["format"], "inputs": inputs["inputs"]}
    (folder / ".begun.json").write_text(json.dumps(begun))
    directory.make(stage)
    assert made == [False, True]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield mount
    subprocess.run(["umount", mount], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(setting, small_disk, capsys):
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (600 << 10))
    command = ["run", "run.yaml", "name=other", f"runs={small_disk}", "methods=[sequential,grasp]"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error or "file write failed" in error
    assert "the same command" in error
    assert "Traceback" not in error
    for stage in (small_disk / "other").rglob("done.json"):
        assert json.loads(stage.read_text())["outputs"]
    filler.unlink()
    main(command)  # a megabyte may be too small for the report
    assert list((small_disk / "other/adapters").glob("*/done.json"))


def test_a_disk_that_cannot_be_written_is_said(setting, small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert main(["run", "run.yaml", f"runs={small_disk}"]) == 2
    assert f"cannot write {small_disk}/whole: Read-only file system" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_on_a_disk_that_cannot_be_written_is_read(setting, tmp_path, capsys):
    command = ["run", "run.yaml", "name=other", "methods=[zero_shot]"]
    assert main(command) == 0
    target = tmp_path / "view"
    target.mkdir()
    if subprocess.run(["mount", "--bind", setting / "runs", target], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", target], check=True)
        code = main([*command, f"runs={target}"])
    finally:
        subprocess.run(["umount", target], check=True)
    assert code == 0, capsys.readouterr().err


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(setting, monkeypatch):
    jumps = iter([0.0, -1e6, 1e7, 3e8, -2e8] * 10_000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    go_on_and_compare(setting)


@pytest.mark.rare
@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path: Path):
    found = soak(3, seed=1, folder=tmp_path)
    assert found.count >= 3
    assert found.different == []
