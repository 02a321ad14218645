"""`grasp watch`, `runs` and `clean`: on run directories whose stages are made here, and beside a real run."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tests.helpers.run import CONFIG, write_setting

from grasp_lora.cli.main import main
from grasp_lora.errors import GraspError
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.leftovers import leftovers, remove
from grasp_lora.workspace.lock import QUIET, hold
from grasp_lora.workspace.records import RunPlan
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.rows import Row
from grasp_lora.workspace.stage import Stage, Work

SMALL = (
    CONFIG[: CONFIG.index("methods:")]
    + "methods: [merge, grasp]\nmax_length: 40\nmax_new_tokens: 6\nevaluation: {generate: 0}\n"
)


def write(resources, folder, *, text="x", files=("out.txt",), **given):
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)


def score(resources, folder, *, method, dev, test, **given):
    Row(method, 42, dev, (test,), {}, (), {}, p=0.25).write(folder)


def summarise(resources, folder, *, text):
    (folder / "summary.md").write_text(text)


WRITE = Work(write)
SCORES = [
    Stage("eval/merge/seed42", Work(score), {"method": "merge", "dev": 2.5, "test": 2.75}),
    Stage("eval/grasp/seed42", Work(score), {"method": "grasp", "dev": 2.25, "test": 3.0}),
]
REPORT = Stage("report", Work(summarise), {"text": "Deploy: it.\n\nPruning.\n\nCost.\n\nWarnings:\n"})
STAGES = [Stage("merged", WRITE, {"files": ("out.txt", "tensorboard/events")}), *SCORES, REPORT]


def directory(folder, **options):
    run = RunDirectory(folder, Resources(), config="methods: [merge, grasp]\n", **options)
    run.plan = RunPlan({stage.name: 1 for stage in STAGES}, ["merge", "grasp"])
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    made = directory(tmp_path_factory.mktemp("finished") / "one")
    for stage in STAGES:
        made.make(stage)
    return made.root


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "runs/one")


def leave(folder, name, seconds=QUIET + 60, file="train_log.jsonl"):
    """A folder with a file in it that nobody has changed for so long."""
    left = folder / name
    left.mkdir(parents=True)
    (left / file).write_text("12345")
    for path in (left / file, left):
        os.utime(path, (time.time() - seconds,) * 2)
    return left


def stdout(capsys, *arguments):
    assert main([str(one) for one in arguments]) == 0
    return capsys.readouterr().out


class Terminal:
    """A command whose output is a terminal of 80 columns and 30 lines."""

    def __init__(self, *arguments):
        self.master, slave = pty.openpty()
        environment = os.environ | {"COLUMNS": "80", "LINES": "30", "TERM": "xterm-256color"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grasp_lora.cli.main", *map(str, arguments)],
            stdin=slave, stdout=slave, stderr=slave, env=environment,
            # A shell starts what runs in its background with Ctrl-C ignored, and so would be this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(slave)
        self.raw = self.text = ""  # as it came; without escapes and runs of blanks

    def until(self, wanted, seconds=60.0):
        """Read until the output has the text; None: until it ends."""
        end = time.monotonic() + seconds
        while wanted is None or wanted not in self.text:
            assert time.monotonic() < end, f"no {wanted!r} in {self.text[-2000:]!r}"
            if select.select([self.master], [], [], 0.5)[0]:
                try:
                    new = os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # Linux says so when the other side is closed
                    break
                self.raw += new
                self.text = " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw).split())
        assert wanted is None or wanted in self.text

    def interrupt(self):
        """As Ctrl-C does: again where the process was just about to wait, which then is not woken."""
        while self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            time.sleep(0.5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()  # nothing where it has ended
        self.process.wait()

    def answer(self, text):
        os.write(self.master, text.encode())

    def end(self):
        self.until(None)
        os.close(self.master)
        return self.process.wait(30)


@pytest.mark.parametrize("verb", [["watch", "--once"], ["runs"], ["clean"]], ids=lambda verb: verb[0])
def test_they_start_without_torch(run, verb):
    code = (
        "import sys; from grasp_lora.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'scipy'};"
        "print(); print('heavy:', *sorted(heavy & set(sys.modules))); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *verb, run]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_watch_shows_one_frame_where_nobody_can_watch(run, capsys):
    text = stdout(capsys, "watch", run)
    assert text.startswith("one  done")
    assert "4 of 4 stages · 2 of 2 methods" in text
    assert "Deploy: it." in text
    assert "\x1b" not in text


def test_watch_waits_for_a_run_follows_it_and_ends_with_it(tmp_path):
    folder = tmp_path / "later"
    made = directory(folder)
    with Terminal("watch", folder, "--every", "0.1") as terminal:
        terminal.until("nothing is there yet. Ctrl-C ends.")
        with made.held():  # a process has begun, and no stage yet
            time.sleep(0.5)
            assert terminal.process.poll() is None
            for stage in STAGES[:2]:
                made.make(stage)
        terminal.until("2 of 4 stages · 1 of 2 methods")
        assert terminal.process.poll() is None
        for stage in STAGES[2:]:
            made.make(stage)
        terminal.until("Deploy: it.")
        assert terminal.end() == 0


def test_watch_ends_quietly_at_ctrl_c(run):
    (run / "report/done.json").unlink()
    with Terminal("watch", run) as terminal:
        terminal.until("3 of 4 stages")
        terminal.process.send_signal(2)
        assert terminal.end() == 0
        assert "interrupted" not in terminal.text


@pytest.mark.parametrize("arguments", [["--once"], []])
def test_watch_refuses_what_is_no_run(tmp_path, capsys, arguments):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["watch", str(tmp_path), *arguments]) == 2
    assert "is no run: it has no config.yaml" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--every", "nan"]) == 2
    assert "--every is between" in capsys.readouterr().err


@pytest.mark.slow
def test_watch_beside_a_real_run(tmp_path):
    setting = write_setting(tmp_path, SMALL)
    config = [setting / "run.yaml", f"runs={tmp_path}/r"]
    command = [sys.executable, "-m", "grasp_lora.cli.main", "run", *config]
    terminal = Terminal("watch", tmp_path / "r/tiny", "--every", "0.1")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with terminal, subprocess.Popen(command, **quiet) as process:
        for text in ("▶ adapters/ar", "of 9 stages", "▶ learn/seed42", "controller", "p* 0.", "Deploy: "):
            terminal.until(text, 300)
        assert terminal.end() == 0
        assert process.wait(60) == 0


def test_runs_lists_each_folder(run, tmp_path, capsys):
    half = directory(tmp_path / "runs/two")
    for stage in STAGES[:2]:
        half.make(stage)
    old = time.time() - 2 * QUIET
    for path in [half.root, *half.root.rglob("*")]:
        os.utime(path, (old, old))
    now = directory(tmp_path / "runs/three")
    now.make(STAGES[0])
    leave(now.root, "merge/seed42.partial", 0)
    leave(tmp_path / "runs", "[red]notes\x1b[2J")
    lines = stdout(capsys, "runs", tmp_path / "runs").splitlines()
    assert [re.split("  +", line.strip())[:2] for line in lines[1:]] == [
        [r"[red]notes\x1b[2J", "no run"],
        ["one", "done"],
        ["three", "running, 0 of 2 methods"],
        ["two", "unfinished, 1 of 2 methods"],
    ]
    assert re.split("  +", lines[2].strip())[2:5] == ["grasp", "2.2500", "3.0000"]
    found = {one["name"]: one for one in json.loads(stdout(capsys, "runs", "--json", tmp_path / "runs"))}
    assert found["two"]["best"] == {"method": "merge", "p": 0.25, "dev_loss": 2.5, "test_loss": 2.75}
    counts = [found["two"][key] for key in ("state", "methods_evaluated", "methods")]
    assert counts == ["stopped", 1, 2]
    assert found["three"]["best"] is None
    assert found["[red]notes\x1b[2J"]["bytes"] == 5
    assert found["one"]["bytes"] == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert [one["name"] for one in json.loads(stdout(capsys, "runs", "--json", run))] == ["one"]


def test_runs_of_a_folder_that_is_empty_or_is_not_there(tmp_path, capsys):
    assert "is empty" in stdout(capsys, "runs", tmp_path)
    assert main(["runs", str(tmp_path / "gone")]) == 2
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err


@pytest.fixture
def littered(run, tmp_path):
    """A run with one of everything that may go, and with much that may not."""
    leave(run, "merge/seed42.partial")
    made = directory(run, force=True)
    made.make(Stage("merged", WRITE, {"text": "again", "files": ("out.txt", "tensorboard/events")}))
    leave(run, "merged/checkpoint-10", file="trainer_state.json")
    leave(run, "adapters/en.partial", QUIET / 2)  # it may be in the making
    leave(run, "notes.replaced-1")  # no stage
    leave(run, "mine/checkpoint-20", file="trainer_state.json")  # in no stage
    leave(run, "merged/checkpoint-30")  # the Trainer's have a state
    leave(run, "mine/tensorboard")
    (run / "a.partial").write_text("a file")
    leave(run, "combined/ties.partial", file="adapter_config.json")
    leave(run, "mystuff.partial", file="notes.txt")  # no file of ours
    # Done, by an earlier version's rules.
    made.make(Stage("eval/grasp/seed42/tests/old.partial", WRITE, {"files": ("out.txt", "rounds.jsonl")}))
    os.utime(run / "eval/grasp/seed42/tests/old.partial", (0, 0))
    elsewhere = leave(tmp_path, "elsewhere/b.partial")
    (run / "b.partial").symlink_to(elsewhere)
    (run / "link").symlink_to(elsewhere.parent)
    return run


def names(found, run):
    return [str(one.path.relative_to(run)) for one in found if not one.keep]


GOING = ["combined/ties.partial", "merge/seed42.partial", "merged/checkpoint-10", "merged.replaced-1"]


def test_clean_finds_what_it_knows_and_nothing_else(littered):
    found = leftovers(littered)
    assert names(found, littered) == GOING
    assert {one.path.name: one.keep for one in found if one.keep} == {
        "en.partial": "it has just changed, so it may be in the making"
    }
    assert found[0].bytes == 5
    with_logs = names(leftovers(littered, logs=True), littered)
    assert sorted(set(with_logs) - set(GOING)) == ["merged/tensorboard"]


def test_clean_removes_nothing_unasked(littered, capsys):
    before = sorted(littered.rglob("*"))
    text = stdout(capsys, "clean", littered.parent)
    assert "4 folders, " in text
    assert "--remove does it." in text
    assert "stays: it has just changed" in text
    assert main(["clean", str(littered), "--remove"]) == 2
    assert "nobody is there to be asked" in capsys.readouterr().err
    assert main(["clean", str(littered), "--yes"]) == 2
    assert "--yes answers the question of --remove" in capsys.readouterr().err
    assert sorted(littered.rglob("*")) == before


def test_clean_removes_exactly_what_it_named(littered, tmp_path, capsys):
    before = set(littered.parent.parent.rglob("*"))
    text = stdout(capsys, "clean", littered, littered, "--remove", "--yes")
    assert "Removed 4 of 4, " in text
    gone = {str(path.relative_to(littered)) for path in before - set(littered.parent.parent.rglob("*"))}
    assert {name for name in gone if not any(name.startswith(f"{one}/") for one in GOING)} == set(GOING)
    assert (tmp_path / "elsewhere/b.partial/train_log.jsonl").exists()
    # What is left is a run that needs nothing made again.
    made = directory(littered)
    made.make(Stage("merged", WRITE, {"text": "again", "files": ("out.txt", "tensorboard/events")}))
    assert "Nothing to remove." in stdout(capsys, "clean", littered)


def test_a_stage_whose_log_was_removed_is_still_done(run, capsys):
    assert "Removed 1 of 1" in stdout(capsys, "clean", run, "--logs", "--remove", "--yes")
    at = (run / "merged/done.json").stat().st_mtime_ns
    directory(run).make(STAGES[0])
    assert (run / "merged/done.json").stat().st_mtime_ns == at


def test_a_checkpoint_that_a_stage_counts_among_its_results_stays(tmp_path):
    files = ("out.txt", "checkpoint-5/trainer_state.json")
    directory(tmp_path).make(Stage("merge/seed42", WRITE, {"files": files}))
    (found,) = leftovers(tmp_path)
    assert found.keep == "its stage counts it among its results"
    assert not remove(found)


def test_clean_leaves_what_is_held_however_old(littered):
    partial = littered / "merge/seed42.partial"
    before = leftovers(littered)
    with hold(partial):
        assert not remove(next(one for one in before if one.path == partial))
        (found,) = [one for one in leftovers(littered) if one.path == partial]
        assert found.keep == "it is being made"
    assert partial.exists()


@pytest.mark.hostile("symlinks out of the run's folder", "followed to stages alone; nothing there is changed")
def test_clean_leaves_a_later_folder_of_the_same_name(littered):
    aside = littered / "merged.replaced-1"
    (found,) = [one for one in leftovers(littered) if one.path == aside]
    aside.rename(aside.with_name("kept"))
    leave(littered, "merged.replaced-1")
    assert not remove(found)
    assert (aside / "train_log.jsonl").exists()
    aside.rename(aside.with_name("kept-too"))
    assert not remove(found)  # it is gone
    aside.symlink_to(aside.with_name("kept"))
    assert not remove(found)
    assert (aside / "out.txt").exists()


@pytest.mark.parametrize(("answer", "left"), [("\n", 1), ("n\n", 1), ("y\n", 0)])
def test_clean_asks_at_a_terminal(run, answer, left):
    partial = leave(run, "merge/seed42.partial")
    with Terminal("clean", run, "--remove") as terminal:
        terminal.until("Remove 1 folder, 5 B? [y/N]")
        assert partial.exists()
        terminal.answer(answer)
        assert terminal.end() == 0
    assert partial.exists() == bool(left)
    assert ("Nothing was removed." if left else "Removed 1 of 1, 5 B.") in terminal.text


@pytest.mark.parametrize(
    ("break_off", "said", "code"),
    [
        (lambda terminal: terminal.interrupt(), "grasp: interrupted; nothing was removed", 130),
        (lambda terminal: terminal.answer("\x04"), "Nothing was removed.", 0),
    ],
    ids=["ctrl-c", "ctrl-d"],
)
def test_clean_removes_nothing_when_its_question_is_broken_off(run, break_off, said, code):
    partial = leave(run, "merge/seed42.partial")
    with Terminal("clean", run, "--remove") as terminal:
        terminal.until("[y/N]")
        break_off(terminal)
        assert terminal.end() == code
    assert terminal.text.endswith(said)
    assert partial.exists()


def test_clean_leaves_what_has_changed_since_it_was_named(littered):
    partial = littered / "merge/seed42.partial"
    (found,) = [one for one in leftovers(littered) if one.path == partial]
    assert not found.keep
    (partial / "half.txt").write_text("123456")  # by a process whose lock is not seen here
    assert not remove(found)
    assert partial.exists()


def test_clean_refuses_folders_that_are_no_runs(tmp_path, capsys):
    leave(tmp_path, "mine.partial")
    assert main(["clean", str(tmp_path), "--remove", "--yes"]) == 2
    assert "is no run, and there is none in it" in capsys.readouterr().err
    with pytest.raises(GraspError, match="nothing in it is touched"):
        leftovers(tmp_path)
    assert main(["clean", str(tmp_path / "gone")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert (tmp_path / "mine.partial/train_log.jsonl").exists()
