"""What is shown of runs whose files hold anything, damage included."""

import io
import json
import math
import shutil

import pytest
from rich.console import Console

from grasp_lora.cli.main import main
from grasp_lora.control.rounds import ROUNDS_FILE, Probe, Round
from grasp_lora.cost import span
from grasp_lora.lm.logs import TRAIN_LOG_FILE
from grasp_lora.reporting.compare import read_results
from grasp_lora.reporting.plain import sparkline
from grasp_lora.reporting.progress import progress_of
from grasp_lora.reporting.reading import read_run
from grasp_lora.reporting.screen import frame
from grasp_lora.workspace.records import Done, LearnedRatio, RunPlan
from grasp_lora.workspace.rows import Row

MANY_DIGITS = "9" * 400
DIGITS = [MANY_DIGITS, f"-{MANY_DIGITS}"]


def evaluate(run, method, dev, test=3.0, folder=None, **about):
    """A finished evaluation."""
    made = run / (folder or f"eval/{method}/seed42")
    made.mkdir(parents=True)
    Row(method, 42, dev, (test,), {}, (), {}, **about).write(made)
    Done(seconds=1.0).write(made)
    return made


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs/one"
    (folder / "report").mkdir(parents=True)
    (folder / "config.yaml").write_text("methods: [merge, grasp]\n")
    Done().write(folder / "report")
    evaluate(folder, "merge", 2.5)
    evaluate(folder, "grasp", 2.25)
    return folder


def shown(run, width=100):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(frame(progress_of(run), width))
    return console.file.getvalue()


def listed(capsys, folder, *options):
    assert main(["runs", str(folder), *options]) == 0
    return capsys.readouterr().out


def overview(capsys, run):
    (found,) = json.loads(listed(capsys, run, "--json"), parse_constant=pytest.fail)
    return found


def test_losses_that_diverged_are_null_for_programs(run, capsys):
    for number, (dev, test) in enumerate([(math.nan, 1.0), (math.inf, 1.0), (1e308, 1e308)]):
        evaluate(run, "merge", dev, test, folder=f"draws/{number}/eval/merge/seed42")
    evaluate(run, "diverged", math.nan, math.nan, p=math.nan)
    assert overview(capsys, run)["best"]["method"] == "grasp"
    for name in ("merge", "grasp"):
        evaluate(run, name, math.nan, math.inf, folder=f"eval/{name}/seed7", p=math.nan)
    found = overview(capsys, run)["best"]
    assert (found["dev_loss"], found["test_loss"]) == (None, None)
    assert "nan" in listed(capsys, run)
    assert "nan" in shown(run)


def test_a_ratio_that_is_no_number_is_null_for_programs(run, capsys):
    folder = run / "learn/seed42"
    folder.mkdir(parents=True)
    (folder / ROUNDS_FILE).write_text("")
    (folder / LearnedRatio.FILE).write_text('{"p": NaN}')
    Done(inputs={"policy": "gaussian"}).write(folder)
    assert overview(capsys, run)["p"] is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e308", "-1e308", *DIGITS, "0"], ids=str.__len__)
def test_any_number_in_a_log_can_be_watched(run, number):
    folder = run / "learn/seed42.partial"
    folder.mkdir(parents=True)
    keys = ("step", "max_steps", "loss", "dev_loss")
    lines = [dict.fromkeys(keys, "X"), dict.fromkeys(keys, 3), dict.fromkeys(keys, "X"), {"loss": "Y"}]
    opposite = number.removeprefix("-") if number.startswith("-") else f"-{number}"
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    text = text.replace('"X"', number).replace('"Y"', opposite.replace("-NaN", "NaN"))
    (folder / TRAIN_LOG_FILE).write_text(text)
    probe = Probe(0.1, "X", "X")
    rounds = [Round(1, 2, p, "X", "X", 0.0, (probe,), True, "X", "X", "X") for p in ("X", 0.25)]
    (folder / ROUNDS_FILE).write_text("".join(f"{one.to_json()}\n" for one in rounds).replace('"X"', number))
    text = shown(run)
    assert "learn/seed42" in text
    assert "controller" in text or number in DIGITS


@pytest.mark.parametrize("seconds", ["NaN", "1e300", "-1e300", "1e308", MANY_DIGITS], ids=str.__len__)
@pytest.mark.parametrize("passes", [1, int(MANY_DIGITS)], ids=["one", "many"])
def test_any_time_can_be_shown(run, seconds, passes, capsys):
    RunPlan({"eval/merge/seed42": passes, "eval/grasp/seed42": 1, "later": passes}).write(run)
    for name in ("merge", "grasp"):
        (run / f"eval/{name}/seed42" / Done.FILE).write_text(f'{{"seconds": {seconds}}}')
    assert max(map(len, shown(run).splitlines())) < 100
    listed(capsys, run)


@pytest.mark.parametrize(
    "config",
    [
        "methods: 3", "methods: [grasp, 1, [a]]", "methods: grasp", "methods: null", "target: null",
        "target: 3", "target: {draws: x}", "target: {draws: 9999999999}",
        "variants: [a]", "variants: {a: 1, 2: {}}", "control: []",
        "seeds: 3", "seeds: [[1], a]", "- 1", "\xff", "a: [", "a: !!int ''", "a: !!timestamp x",
        "a: !!bool x", "? [1]\n: 2",
    ],
)  # fmt: skip
def test_a_config_that_holds_anything_is_read_as_far_as_it_goes(run, config):
    (run / "config.yaml").write_bytes(config.encode("latin-1"))
    assert [one.method for one in read_results(run)] == ["grasp", "merge"]
    found = read_run(run)
    assert {one.method for one in found.results} == {"grasp", "merge"}
    assert found.variants == {}
    progress = progress_of(run)
    assert (progress.state, progress.about) == ("done", "")


@pytest.mark.parametrize("text", ["", "{", '{"method": 1}', "\xff", "[" * 100_000], ids=str.__len__)
def test_an_evaluation_that_cannot_be_read_is_counted(run, text, capsys):
    assert overview(capsys, run)["unreadable"] == 0
    (run / "eval/grasp/seed42" / Row.SCORES_FILE).write_bytes(text.encode("latin-1"))
    (run / "eval/grasp/seed42" / Done.FILE).touch()
    evaluate(run, "other", 1.0)  # finished anew, so that it is read anew
    progress_of(run)
    assert "done, 1 unreadable" in listed(capsys, run)
    found = overview(capsys, run)
    assert (found["state"], found["unreadable"], found["best"]["method"]) == ("done", 1, "other")
    assert shown(run).startswith("one  done, 1 unreadable")


def test_a_stage_whose_record_cannot_be_read_is_counted(run, capsys):
    RunPlan({"eval/grasp/seed42": 1, "report": 1}, ["merge", "grasp"]).write(run)
    (run / "eval/grasp/seed42" / Done.FILE).write_text("{")
    (run / "report" / Done.FILE).touch()
    assert "running, 1 of 2 methods, 1 unreadable" in listed(capsys, run)


def test_the_best_is_one_that_could_be_deployed(run, capsys):
    evaluate(run, "point", 1.0, is_point=True)
    evaluate(run, "control", 1.5, control_of="merge")
    assert overview(capsys, run)["best"]["method"] == "grasp"
    for name in ("merge", "grasp"):
        shutil.rmtree(run / f"eval/{name}")
    assert overview(capsys, run)["best"]["method"] == "point"  # there is no other


def test_further_test_sets_do_not_count(run):
    evaluate(run, "grasp", 2.25, 9.0, folder="tests/far/grasp/seed42", test_set="far")
    evaluate(run, "only", 0.5, 9.0, folder="tests/far/only/seed42", test_set="far")
    found = progress_of(run)
    assert {one.method: (one.test_loss, one.rows) for one in found.scored} == {
        "merge": (3.0, 1), "grasp": (3.0, 1),
    }  # fmt: skip
    assert (found.best.method, found.unreadable) == ("grasp", 0)


def test_a_name_of_a_run_cannot_steer_the_terminal(run):
    moved = run.rename(run.with_name("\x1b[31mred"))
    assert shown(moved).splitlines()[0].rstrip() == r"\x1b[31mred  done"


def test_numbers_that_are_none_as_people_read_them():
    assert [span(x) for x in (math.nan, math.inf, 1e300, -1e300)] == ["?"] * 4
    assert sparkline([0.0, math.nan, 1.0, math.inf], 9) == "▁ █ "
    assert sparkline([-1e308, 1e308], 9) == "▁█"
    assert sparkline([math.nan], 9) == " "
