"""What a run's folder tells of how far the run is: of a real tiny run that is cut at several moments."""

import io
import json
import os
import shutil
import time

import pytest
from rich.console import Console
from rich.text import Text
from tests.helpers.run import CONFIG, write_setting

import grasp_lora
from grasp_lora.control.rounds import ROUNDS_FILE, read_rounds
from grasp_lora.cost import span
from grasp_lora.errors import GraspError
from grasp_lora.lm.logs import TRAIN_LOG_FILE
from grasp_lora.reporting.logs import read_so_far
from grasp_lora.reporting.made import Made, seconds_left
from grasp_lora.reporting.making import making_in
from grasp_lora.reporting.overview import overviews
from grasp_lora.reporting.plain import ago, harmless, size, sparkline
from grasp_lora.reporting.progress import progress_of
from grasp_lora.reporting.screen import fitted, frame
from grasp_lora.workspace.lock import QUIET, hold
from grasp_lora.workspace.records import Done, LearnedRatio, RunPlan
from grasp_lora.workspace.rows import Row

SMALL = (
    CONFIG[: CONFIG.index("methods:")]
    + "methods: [merge, grasp]\nmax_length: 40\nmax_new_tokens: 6\nevaluation: {generate: 0}\n"
)
LAST = ["report", "eval/grasp/seed42", "final/seed42"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("setting"), SMALL)
    return grasp_lora.run(folder / "run.yaml", runs=str(folder / "runs")).folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "tiny")


@pytest.fixture
def learning(run):
    """Cut while the ratio is being learned: a line of each log is half written."""
    for name in LAST:
        shutil.rmtree(run / name)
    folder = (run / "learn/seed42").rename(run / "learn/seed42.partial")
    for name in (Done.FILE, LearnedRatio.FILE):
        (folder / name).unlink()
    for name in (ROUNDS_FILE, TRAIN_LOG_FILE):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-20])
    return run


def age(run, seconds):
    for path in [run, *run.rglob("*")]:
        os.utime(path, (time.time() - seconds,) * 2)


def shown(progress, width=80, height=None):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, highlight=False)
    console.print(frame(progress, width) if height is None else fitted(progress, console))
    return console.file.getvalue()


def test_a_run_that_is_done(run):
    found = progress_of(run)
    assert (found.state, found.stages, found.methods, found.left) == ("done", (9, 9), (2, 2), None)
    assert found.making == ()
    rows = {name: Row.read(run / f"eval/{name}/seed42") for name in ("merge", "grasp")}
    assert [one.method for one in found.scored] == ["merge", "grasp"]
    for one in found.scored:
        row = rows[one.method]
        assert (one.p, one.dev_loss, one.rows) == (row.p, row.dev_loss, 1)
        assert one.test_loss == pytest.approx(row.test_loss)
    assert found.best.method == min(rows, key=lambda name: rows[name].dev_loss)
    assert found.learning.p == LearnedRatio.read(run / "learn/seed42").p
    assert found.learning.rounds == read_rounds(run / "learn/seed42")
    summary = (run / "report/summary.md").read_text()
    assert len(found.verdict) == 3
    assert summary.startswith(found.verdict[0])
    text = " ".join(shown(found, 400).split())
    assert found.verdict[2] in text
    assert f"p* {found.learning.p:.3f}" in text


def test_a_ratio_that_is_being_learned(learning, finished):
    found = progress_of(learning)
    whole = read_rounds(finished / "learn/seed42")
    assert (found.state, found.stages, found.methods) == ("running", (5, 9), (1, 2))
    (now,) = found.making
    assert (now.name, now.alive, now.steps) == ("learn/seed42", True, 16)
    assert (found.learning.rounds, found.learning.p) == (whole[:-1], None)
    log = [json.loads(line) for line in (finished / "learn/seed42" / TRAIN_LOG_FILE).read_text().splitlines()]
    assert now.step == log[-2]["step"]
    assert now.losses == tuple(line["loss"] for line in log[:-1] if "loss" in line)
    assert found.left > 0
    assert [one.method for one in found.scored] == ["merge"]
    text = shown(found, 100)
    assert "5 of 9 stages · 1 of 2 methods · about" in text
    assert f"step {now.step} of 16" in text
    assert f"{whole[-2].probes[0].reward:+.4f}" in text


def test_a_stage_has_taken_no_longer_than_since_the_one_before_it(learning):
    now = max(one.at for one in progress_of(learning).made) + 0.01
    os.utime(learning / "config.yaml", (now - 0.01,) * 2)
    left = progress_of(learning, now).left
    os.utime(learning / "config.yaml", (now - 3600,) * 2)  # when the command was begun
    assert 0 < progress_of(learning, now).left == pytest.approx(left)


def test_what_was_killed_is_told_from_what_is_quiet(learning):
    age(learning, QUIET + 60)
    found = progress_of(learning)
    assert found.state == "stopped"
    assert not found.making[0].alive
    text = " ".join(shown(found, 200).split())
    assert "Nobody seems to be making it: the last change was 4 min ago." in text
    assert "not finished: no change for 4 min, and nobody holds it" in text
    with hold(learning / "learn/seed42.partial"):
        found = progress_of(learning)
        assert found.state == "running"
        assert "no change for 4 min, its process is alive" in " ".join(shown(found, 200).split())


def test_what_may_have_been_stopped_just_now_is_said(learning):
    age(learning, 30)
    partial, doubt = learning / "learn/seed42.partial", "no process on this machine holds it"
    assert progress_of(learning).state == "running"  # another machine's locks may not be seen here
    assert doubt in shown(progress_of(learning))
    with hold(partial):
        assert doubt not in shown(progress_of(learning))


def test_between_two_stages_it_is_still_running(learning):
    shutil.rmtree(learning / "learn/seed42.partial")
    age(learning, 5)
    assert progress_of(learning).state == "running"
    age(learning, 30)
    assert progress_of(learning).state == "stopped"


def test_a_run_that_was_copied_has_other_times_and_is_done(run):
    later = time.time() + 5
    os.utime(run / "eval/grasp/seed42" / Done.FILE, (later, later))
    assert progress_of(run, later + 60).state == "done"
    (run / "eval/grasp/seed42" / Done.FILE).unlink()
    assert progress_of(run, later + 600).state == "stopped"


def test_a_run_that_did_not_say_what_it_will_make(learning):
    (learning / RunPlan.FILE).unlink()
    found = progress_of(learning)
    assert (found.stages, found.methods) == ((0, 0), (1, 2))
    assert found.left == pytest.approx(sum(one.seconds for one in found.made))  # another method, as long
    assert "1 of 2 methods" in shown(found)


def test_logs_that_hold_anything(learning):
    folder = learning / "learn/seed42.partial"
    (folder / TRAIN_LOG_FILE).write_bytes(
        b'null\n{"step": "x", "loss": NaN}\n\xff\xfe\n[1]\n{"step": 3, "loss": true}\n'
        b'{"step": 7, "loss": 2.5}\n{"st'
    )
    (folder / ROUNDS_FILE).write_bytes(b'{"round": 1}\n{"round": "\\u001b[2J"}\n' + b"[" * 100_000 + b"\n")
    found = progress_of(learning)
    assert (found.making[0].step, found.making[0].losses) == (7, (2.5,))
    assert found.making[0].rounds == ()
    assert read_so_far(learning / "gone.jsonl") == []
    (learning / "adapters/en" / Done.FILE).write_text("{")
    assert progress_of(learning).stages == (4, 9)
    for text in (b"", b"name: [", b"- a\n", b"methods: 3\nsource: [1]\ntarget: x\n", b"\xff"):
        (learning / "config.yaml").write_bytes(text)
        assert progress_of(learning).about == ""


def test_a_folder_that_becomes_a_stage_while_it_is_looked_at(tmp_path):
    assert making_in(tmp_path, "a.partial", time.time()) is None


@pytest.mark.hostile("symlinks out of the run's folder", "followed to stages alone; nothing there is changed")
def test_links_are_not_followed(run, finished):
    (run / "elsewhere").symlink_to(finished)
    (run / "a.partial").symlink_to(finished)
    found = progress_of(run)
    assert (found.stages, found.making) == ((9, 9), ())
    assert len(found.made) == 9
    bare = overviews(finished)[0].bytes
    assert bare < overviews(run)[0].bytes < bare + 1000  # the links' own bytes


@pytest.mark.parametrize("name", ["adapters/en", "eval", "final/seed42"])
def test_a_stage_may_be_elsewhere_as_for_whoever_makes_the_run(run, tmp_path, name):
    (run / name).symlink_to((run / name).rename(tmp_path / "elsewhere"))
    found = progress_of(run)
    assert (found.state, found.stages, found.methods) == ("done", (9, 9), (2, 2))
    (tmp_path / "elsewhere/up").symlink_to(run)
    (run / "gone").symlink_to("gone")
    assert len(progress_of(run).made) == 9


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_what_is_no_run_is_refused(tmp_path, content):
    if content:
        (tmp_path / content).write_text("mine")
    with pytest.raises(GraspError, match=r"is no run: it has no config\.yaml"):
        progress_of(tmp_path)


def test_texts_of_a_run_cannot_steer_the_terminal(run):
    evil = "\x1b]0;x\x07\x1b[2J[bold]a[/nope]\u202e\n"
    path = run / "eval/merge/seed42" / Row.SCORES_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": evil}))
    (run / "report/summary.md").write_text(f"Deploy: {evil}\n\nmore\n")
    (run / "config.yaml").write_text(json.dumps({"backbone": evil, "methods": ["merge"]}))
    moved = run.rename(run.with_name("\x1b[31mred"))
    found = progress_of(moved)
    text = shown(found, 200)
    assert r"\x1b]0;x\x07\x1b[2J[bold]a[/nope]\u202e\n" in text
    assert not {"\x07", "\u202e"} & set(text)
    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text
    assert r"\x1b[31mred" in text
    assert harmless(os.fsdecode(b"a\xff")) == r"a\udcff"


@pytest.mark.parametrize("width", [24, 40, 80, 132])
@pytest.mark.parametrize("height", [16, 24, 50])
def test_the_frame_fits_the_terminal(learning, width, height):
    lines = shown(progress_of(learning), width, height).splitlines()
    assert max(Text.from_ansi(line).cell_len for line in lines) <= width
    assert len(lines) <= height or width < 40
    assert "learn/seed42" in "\n".join(lines)


def test_seconds_that_are_left_worked_by_hand():
    plan = RunPlan({"a/1": 10, "a/2": 20, "b": 30, "draws/1/a/1": 10, "deploy/1": 0, "deploy/2": 0})
    made = [Made("a/1", 5.0, 0.0, None), Made("deploy/1", 7.0, 0.0, None), Made("other", 1e6, 0.0, None)]
    # a: half a second each pass; b as all, 12 s for 10 passes; a deployment 7 s.
    assert seconds_left(plan, made, {}) == pytest.approx(20 * 0.5 + 30 * 1.2 + 10 * 0.5 + 7.0)
    assert seconds_left(plan, made, {"a/2": 4.0, "b": 100.0}) == pytest.approx(6.0 + 5.0 + 7.0)
    assert seconds_left(plan, [], {}) is None


def test_numbers_as_people_read_them():
    assert [span(x) for x in (0.4, 99, 100, 5399, 5400, 47 * 3600, 50 * 3600)] == [
        "0 s", "99 s", "2 min", "90 min", "1 h 30 min", "47 h 0 min", "2 d 2 h",
    ]  # fmt: skip
    assert [size(x) for x in (999, 1000, 99_940, 123_456, 999_499, 999_500, 2 * 10**12)] == [
        "999 B", "1.0 kB", "99.9 kB", "123 kB", "999 kB", "1.0 MB", "2.0 TB",
    ]  # fmt: skip
    assert [ago(-3600), ago(61)] == ["now", "61 s ago"]
    assert sparkline([0.0, 1.0, 0.5, 1.0], 3) == "█▁█"
    assert sparkline([0.3], 9) == "▄"
    assert sparkline([], 9) == ""
