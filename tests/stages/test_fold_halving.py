"""Halving inside cross-validation: the survivor is what the grid over folds trains at its ratio."""

import math

import pytest
from tests.helpers.run import CONFIG, run_in, write_setting
from tests.soak import files

from grasp_lora.control.halving import HalvingResult
from grasp_lora.errors import GraspError
from grasp_lora.executors.execute import execute
from grasp_lora.experiment import start
from grasp_lora.methods import folds
from grasp_lora.methods.plan import plan
from grasp_lora.stages.fold_halving import _in_turn
from grasp_lora.workspace import halved
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Rows
from grasp_lora.workspace.records import DevLosses, Done, LearnedRatio
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.rows import Row
from grasp_lora.workspace.stage import behind, inside, resolve
from grasp_lora.workspace.training import fine_tune

GIVEN = {
    "methods": ["cross_validate"],
    "cross_validate": {"folds": 2, "search": "halving"},
    "grid": [0.0, 0.5],
    "halving": {"rows": [2, None], "keep": "noise", "margin": 9.0},  # both see the second rung
    "lora": {"dropout": 0.1},
    "variants": {},
    "seeds": [42],
    "evaluation": {"generate": 0, "metrics": [], "deployment": False},
}
FOLDS = "folds/seed42"


def made(folder, **more):
    return run_in(folder, **{**GIVEN, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_setting(tmp_path_factory.mktemp("folds"), CONFIG)


@pytest.fixture(scope="module")
def run(folder):
    return made(folder)


def chosen(folder, **more):
    """The stage that chooses, and the folder of its run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        x = start("run.yaml", {**GIVEN, "runs": str(folder / "runs"), "name": "never", **more})
        stages = {stage.name: stage for stage in plan(x)}
        return stages[FOLDS], RunDirectory(x.config.folder, Resources())


def test_no_fold_was_given_a_row_that_it_is_judged_by(folder):
    stage, run = chosen(folder)
    held_out = [{one.id for one in rows.resolve(run)} for rows in stage.given["dev"]]
    assert len(held_out) == 4  # two folds, twice
    assert set().union(*held_out[:2]) == set().union(*held_out[2:])
    assert len(set().union(*held_out)) == 8 + 4 + 4
    for fold, out in enumerate(held_out):
        line = [stage.given["train"][fold], *behind(stage.given["start"][fold])]
        for one in line:
            for rows in inside(getattr(one, "given", one)):
                if isinstance(rows, Rows) and rows.language == "ar":
                    assert not {example.id for example in rows.resolve(run)} & out


def test_the_survivor_is_scored_as_the_grid_over_folds_scores_its_ratio(folder, run):
    p = LearnedRatio.read(run / FOLDS).p
    by_grid, directory = chosen(folder, name=run.name, cross_validate=2, grid=[p])
    ends = [DevLosses.read(directory.make(one)).by_epoch for one in by_grid.given["trained"][p]]
    assert DevLosses.read(run / FOLDS).by_epoch == [math.fsum(one) / 4 for one in zip(*ends, strict=True)]


def test_the_last_run_has_the_ratio_and_the_epochs_that_the_folds_chose(run):
    ratio, epochs = LearnedRatio.read(run / FOLDS).p, DevLosses.read(run / FOLDS).best_epoch
    row = Row.read(run / "eval/cross_validate/seed42")
    assert (row.p, row.folds) == (ratio, 2)
    assert row.labels == {"train": 8, "dev": 4, "micro_dev": 4}
    assert row.steps == (2 + epochs) * 16  # the target's adapter has its two epochs
    assert f"halving kept p = {ratio:g} of 2 candidates" in (run / "report/summary.md").read_text()


def test_what_it_took_by_hand(folder, run):
    # Each of four folds trains on 8 rows and holds out 8, in 16 steps: 2 candidates to step 2 with two rows
    # each, both to step 4 with all 8, and one to its end with three looks at the 8.
    done, rungs = Done.read(run / FOLDS), HalvingResult.read(run / FOLDS).rungs
    assert [(rung.step, len(rung.losses), len(rung.losses[rung.leader])) for rung in rungs] == [
        (2, 2, 4 * 2),
        (4, 2, 4 * 8),
    ]
    assert done.steps == done.backward_examples == 4 * (2 * 2 + 2 * 2 + 12)
    assert done.forward_examples == done.steps + 4 * (2 * 2 + 2 * 8 + 3 * 8)
    stage, directory = chosen(folder)
    given = resolve({key: value for key, value in stage.given.items() if key != "start"}, directory)
    assert stage.work.passes(**given) == done.forward_examples + done.backward_examples


def test_a_row_that_is_held_out_twice_is_one_cluster(run):
    last = HalvingResult.read(run / FOLDS).rungs[-1]
    assert sorted(map(last.groups.count, set(last.groups))) == [2] * 16


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 11, 18])
def test_one_that_was_ended_goes_on_to_the_same_files(folder, run, monkeypatch, after):
    """Ended as a candidate begins for the first rung (8), for the second (8), or its last training (4)."""
    begun, name = [0], f"ended{after}"

    def ended(*args, **given):
        begun[0] += 1
        if begun[0] == after:
            raise KeyboardInterrupt
        fine_tune(*args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(halved, "fine_tune", ended)
        with pytest.raises(KeyboardInterrupt):
            made(folder, name=name)
    again = made(folder, name=name)
    assert files(again / FOLDS) == files(run / FOLDS)
    done = [Done.read(one / FOLDS) for one in (again, run)]
    assert done[0].forward_examples == done[1].forward_examples
    assert done[0].steps == done[1].steps


def test_rows_in_turn_begin_with_the_first_of_each():
    assert _in_turn([["a", "b", "c"], ["d"], ["e", "f"]]) == ["a", "d", "e", "b", "f", "c"]
    assert _in_turn([[0.0, 1.0], [0.5]]) == [0.0, 0.5, 1.0]


def test_folds_of_different_sizes_are_compared_after_as_many_steps(folder, monkeypatch):
    monkeypatch.setattr(folds, "REPEATS", 1)
    halving = {"rungs": [0.25], "rows": [None]}
    three = {"folds": 3, "search": "halving"}
    stage, directory = chosen(folder, name="three", cross_validate=three, halving=halving)
    execute([(directory, behind(stage))])
    (rung,) = HalvingResult.read(directory.path(FOLDS)).rungs
    assert rung.step == 5  # of 10 or 11 rows twice: 20 steps
    assert len(rung.losses[rung.leader]) == 16


def test_more_folds_than_rows_are_refused_before_any_training(folder):
    with pytest.raises(GraspError, match="8 of its folds hold nothing out: set cross_validate to fewer"):
        made(folder, name="many", cross_validate={"folds": 20, "search": "halving"})
    assert not (folder / "runs/many/adapters").exists()


def test_a_number_alone_is_how_many_folds(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = start("run.yaml", {"cross_validate": 3}).config
    assert (config.cross_validate.folds, config.cross_validate.search) == (3, "grid")
