"""Where a command says it is: a bar on a terminal, lines elsewhere, and the time that is left."""

import logging
import os
import pty
import re
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from tests.helpers.run import CONFIG, write_setting
from transformers import TrainerState

import grasp_lora
from grasp_lora.cost import Cost, count_passes, go_on_from, measure
from grasp_lora.lm import shown as shown_module
from grasp_lora.lm.progress import Progress
from grasp_lora.lm.shown import Counter, Shown
from grasp_lora.workspace.pace import Pace
from grasp_lora.workspace.preview import Planned
from grasp_lora.workspace.whole import Whole

SMALL = (
    CONFIG[: CONFIG.index("methods:")]
    + "methods: [lora_target]\nmax_length: 40\nmax_new_tokens: 6\nevaluation: {generate: 2}\n"
)
STAGES = ["adapters/ar", "eval/lora_target/seed42", "report"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return write_setting(tmp_path_factory.mktemp("setting"), SMALL)


class Terminal:
    """A pseudo-terminal to write to, and what was written so far."""

    def __init__(self):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 160))
        self.file, self._read = os.fdopen(theirs, "w"), []
        self._reader = threading.Thread(target=self._follow, args=(ours,))
        self._reader.start()

    def _follow(self, handle):
        try:
            while read := os.read(handle, 1024):
                self._read.append(read)
        except OSError:  # the other side is closed
            os.close(handle)

    def text(self):
        self.file.close()
        self._reader.join()
        return b"".join(self._read).decode()


def run(setting, name, caplog):
    caplog.clear()
    with caplog.at_level(logging.INFO, "grasp_lora"):
        grasp_lora.run(setting / "run.yaml", runs=str(setting / "runs"), name=name)
    return [line for line in caplog.messages if line.startswith("[")]


def test_on_a_terminal_bars_say_which_stage_of_how_many_it_is(setting, caplog, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal.file)
    monkeypatch.setattr(shown_module, "EVERY", 0.01)  # which are not for terminals
    lines = run(setting, "bars", caplog)
    monkeypatch.undo()
    text = terminal.text()
    assert "[1/3] adapters/ar: 0/" in text
    assert re.search(r"\[1/3\] adapters/ar.*: 16/16 .*loss=\d", text)
    assert re.search(r"\[2/3\] eval/lora_target/seed42( \(\d+ s in all\))?: \d+/14 ", text)
    assert "2/2 " in text  # answers, after 4 dev, 6 test and 4 source rows
    assert [line for line in lines if "started" not in line and "done in" not in line] == []


def test_elsewhere_a_line_takes_the_place_of_the_bar(setting, caplog, monkeypatch):
    reading, writing = os.pipe()
    with os.fdopen(reading) as ours, os.fdopen(writing, "w") as theirs:
        monkeypatch.setattr(sys, "stderr", theirs)
        monkeypatch.setattr(shown_module, "EVERY", 0.01)
        lines = run(setting, "lines", caplog)
        monkeypatch.undo()
        theirs.close()
        assert "adapters/ar" not in ours.read()  # transformers has bars of its own
    assert lines[0] == "[1/3] adapters/ar: started; time left of the whole run: ?"
    steps = [line for line in lines if line.startswith("[1/3] adapters/ar: step ")]
    left = r"; about \d+ s left of the whole run"
    assert re.fullmatch(rf".*: step \d+ of 16.*, dev \d\.\d{{3}}.*{left}", steps[-1]), steps
    assert any(re.search(r"^\[2/3\] .*: (row|answer) \d+ of \d+", line) for line in lines)
    assert any(
        re.fullmatch(r"\[2/3\] .*: started; about \d+ s left of the whole run", line) for line in lines
    )
    for number, name in enumerate(STAGES, 1):
        own = [line for line in lines if line.startswith(f"[{number}/3] {name}: ")]
        assert "started" in own[0]
        assert "done in" in own[-1]
    again = run(setting, "lines", caplog)
    assert again == [f"[{number}/3] {name}: done, skipped" for number, name in enumerate(STAGES, 1)]


def test_the_line_comes_every_half_minute_whatever_the_work_is_at(caplog):
    shown, asked, said = Shown(), [], threading.Event()

    def wait(seconds):
        asked.append(seconds)
        if len(asked) == 2:
            Counter(shown, 80, "step", start=39).update()
        if len(asked) == 3:
            said.set()
        return len(asked) == 3

    shown.begin("final/seed42")
    with caplog.at_level(logging.INFO, "grasp_lora"), shown.watched(wait):
        assert said.wait(10)
    assert asked == [30.0, 30.0, 30.0]
    assert caplog.messages == ["final/seed42: under way", "final/seed42: step 40 of 80"]


def test_no_line_comes_of_what_has_ended(caplog, monkeypatch):
    monkeypatch.setattr(shown_module, "EVERY", 0.01)
    with caplog.at_level(logging.INFO, "grasp_lora"):
        with Shown().watched():
            time.sleep(0.1)
        count = len(caplog.messages)
        time.sleep(0.1)
    assert len(caplog.messages) == count > 0


def test_the_time_that_is_left_worked_by_hand(tmp_path):
    now = [0.0]
    stages = [("a/1", "train", 10), ("b/1", "train", 40), ("a/2", "train", 20), ("c", "score", 10)]
    planned = [Planned(Path("r"), name, work, "new", passes) for name, work, passes in stages]
    planned[2:2] = [Planned(Path("r"), "a/3", "train", "shared", 100)]
    whole = Whole(planned, clock=lambda: now[0])
    assert whole.seconds_left() is None
    whole.begin("a/1")
    assert (whole.title, whole.left()) == ("[1/5] a/1", "time left of the whole run: ?")
    now[0] = 5.0
    whole.end(5.0)
    # half a second a pass: 20 s for b/1, as the same work; 10 s for a/2; 5 s for c, as all
    assert whole.seconds_left() == pytest.approx(35.0)
    whole.begin("b/1")
    now[0] = 17.0  # 12 s later
    assert whole.seconds_left() == pytest.approx(23.0)
    assert whole.left() == "about 23 s left of the whole run"
    now[0] = 1000.0  # it takes longer than was thought
    assert whole.seconds_left() == pytest.approx(15.0)
    whole.end(80.0)  # two seconds a pass; a/2 as a/1; c as all: 85 s for 50 passes
    assert whole.seconds_left() == pytest.approx(10.0 + 17.0)
    for name in ("a/3", "a/2", "c"):
        whole.begin(name)
    whole.end(1.0)
    assert whole.left() == ""


def test_stages_without_passes_take_what_those_like_them_took():
    pace = Pace()
    pace.see("deploy/a", "measure", 7.0, 0)
    pace.see("final/seed1", "train", 30.0, 10)
    assert pace.seconds("deploy/b", "measure", 0) == 7.0
    assert pace.seconds("draws/2/final/seed1", "", 20) == 60.0
    assert pace.alike("eval/a", "score", 5) is None
    assert pace.seconds("report", "report", 0) == 0.0


def test_a_training_that_goes_on_is_shown_from_where_it_was():
    shown = Shown()
    progress = Progress(shown, "trial")
    state = TrainerState(max_steps=80, global_step=40)
    progress.on_train_begin(None, state, None)
    progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, {"loss": 2.3125, "epoch": 3})
    assert shown.doing == "trial, step 41 of 80, loss 2.312"
    progress.on_train_end(None, state, None)


def test_the_stage_at_hand_is_as_fast_as_it_turns_out_to_be():
    now, stages = [0.0], [("a", "train", 100), ("b", "train", 200), ("c", "train", 100)]
    whole = Whole([Planned(Path("r"), *one[:2], "new", one[2]) for one in stages], clock=lambda: now[0])
    whole.begin("a")
    with measure() as whole.cost:
        assert whole.seconds_left() is None
        count_passes(forward=10, backward=10)
        now[0] = 40.0  # 20 passes: two seconds each, for all
        assert whole.seconds_left() == pytest.approx(160 + 400 + 200)
    now[0] = 100.0
    whole.end(100.0)
    assert whole.seconds_left() == pytest.approx(200 + 100)  # a second each
    whole.begin("b")
    with measure() as whole.cost:
        now[0] = 110.0  # its model is loaded: ten of 200 s
        assert whole.seconds_left() == pytest.approx(190 + 100)
        count_passes(forward=100)
        now[0] = 400.0  # half in 300 s; the other half is thought to take between 100 and 300
        assert whole.seconds_left() == pytest.approx((200 * 0.5 + 300) * 0.5 + 100)
        count_passes(forward=90)
        now[0] = 700.0
        assert whole.seconds_left() == pytest.approx((200 * 0.05 + 600) * 0.05 + 100)
        count_passes(forward=20)  # what else it does is not counted: as was thought, which is over
        assert whole.seconds_left() == pytest.approx(100)


def test_what_an_earlier_process_made_is_no_measure_of_this_ones_pace():
    now, stages = [0.0], [("a", "train", 100), ("b", "train", 100)]
    whole = Whole([Planned(Path("r"), *one[:2], "new", one[2]) for one in stages], clock=lambda: now[0])
    whole.begin("a")
    whole.end(100.0)
    whole.begin("b")
    with measure() as whole.cost:
        go_on_from(Cost(seconds=60.0, forward_examples=60))
        assert whole.seconds_left() == pytest.approx(40)
        now[0] = 60.0
        count_passes(forward=20)
        assert whole.seconds_left() == pytest.approx((100 * 0.8 + 60) * 0.2)


def test_a_run_says_before_its_first_stage_is_done_how_long_it_will_take(setting, caplog, monkeypatch):
    original, said = Progress.on_step_end, []

    def on_step_end(self, args, state, control, **rest):
        original(self, args, state, control, **rest)
        said.append(self.shown.left())

    monkeypatch.setattr(Progress, "on_step_end", on_step_end)
    run(setting, "first", caplog)
    assert len(said) > 1
    assert all(re.fullmatch(r"about .* s left of the whole run", one) for one in said)
