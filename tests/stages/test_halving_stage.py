"""The method halving in a run: what it trains, what it says, and what it goes on from."""

import json
import shutil

import pytest
from tests.helpers.run import CONFIG, run_in, write_setting
from tests.soak import files

from grasp_lora.control.halving import HalvingResult
from grasp_lora.errors import GraspError
from grasp_lora.lm.pausing import PauseAt
from grasp_lora.workspace.records import Done, LearnedRatio
from grasp_lora.workspace.rows import Row

GIVEN = {
    "methods": ["merge", "grid", "halving"],
    "variants": {},
    "grid": [0.0, 0.3, 0.5, 0.7],
    "lora": {"dropout": 0.1},
    "halving": {"rows": [2, None]},
    "checkpoint_every": 3,
    "evaluation": {"generate": 1, "metrics": ["em"], "deployment": False},
}


def made(folder, **more):
    return run_in(folder, **{**GIVEN, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_setting(tmp_path_factory.mktemp("halving"), CONFIG)


@pytest.fixture(scope="module")
def run(folder):
    return made(folder)


def test_the_survivor_is_the_grids_training_at_its_ratio(run):
    p = LearnedRatio.read(run / "learn/halving-seed42").p
    for name in ("adapter_model.safetensors", "mask.safetensors", "dev_losses.json", "pruned.json"):
        own, point = run / "halving/seed42" / name, run / f"grid/p{p:.2f}-seed42" / name
        assert own.read_bytes() == point.read_bytes()
    trained = [run / "halving/seed42", run / f"grid/p{p:.2f}-seed42"]
    logs = [(at / "train_log.jsonl").read_text().splitlines() for at in trained]
    losses = [[json.loads(line).get("dev_loss") for line in log] for log in logs]
    assert losses[0] == losses[1]


def test_another_seed_is_trained_at_the_same_ratio(run):
    p = LearnedRatio.read(run / "learn/halving-seed42").p
    rows = [Row.read(run / f"eval/halving/seed{seed}") for seed in (42, 7)]
    assert [row.p for row in rows] == [p, p]
    assert not (run / "learn/halving-seed7").exists()


def test_what_it_took_by_hand(run):
    # Four to step 2 and two rows each, two to step 4 and four rows each; dev is looked at for the survivor
    # alone, whose part is in its own training, which has 16 steps and three looks.
    search, whole = (Done.read(run / name) for name in ("learn/halving-seed42", "halving/seed42"))
    rungs = HalvingResult.read(run / "learn/halving-seed42").rungs
    assert [(rung.step, len(rung.losses), len(next(iter(rung.losses.values())))) for rung in rungs] == [
        (2, 4, 2),
        (4, 2, 4),
    ]
    assert (search.steps, search.backward_examples) == (2 * 3 + 2, 2 * 3 + 2)
    assert search.forward_examples == 3 * (2 + 2) + (2 + 4)
    assert (whole.steps, whole.backward_examples) == (16, 16)
    assert whole.forward_examples == 16 + 3 * 4 + (2 + 4)
    row = Row.read(run / "eval/halving/seed42")
    assert row.choosing_steps == 8
    assert row.steps == Row.read(run / "eval/merge/seed42").steps


@pytest.mark.parametrize("after", [0, 3, 5])
def test_a_search_that_was_ended_goes_on_to_the_same_files(folder, run, monkeypatch, after):
    """Ended after so many pauses, which left checkpoints: four in the first rung, two in the next."""
    name, pauses, on_save = f"ended{after}", [], PauseAt.on_save

    def ends(self, *args, **given):
        if len(pauses) == after:
            raise KeyboardInterrupt
        pauses.append(self)
        on_save(self, *args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(PauseAt, "on_save", ends)
        with pytest.raises(KeyboardInterrupt):
            made(folder, name=name, methods=["halving"], seeds=[42], checkpoint_every=None)
    again = made(folder, name=name, methods=["halving"], seeds=[42], checkpoint_every=None)
    for stage in ("learn/halving-seed42", "halving/seed42"):
        own = {k: v for k, v in files(again / stage).items() if not k.startswith("survivor/")}
        assert own == {k: v for k, v in files(run / stage).items() if not k.startswith("survivor/")}
        done = [Done.read(one / stage) for one in (again, run)]
        assert done[0].forward_examples == done[1].forward_examples
        assert done[0].steps == done[1].steps


def test_where_the_survivor_is_gone_it_is_trained_anew(folder, run):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(run, folder / "runs/gone")
        shutil.rmtree(folder / "runs/gone/learn/halving-seed42/survivor")
        for name in ("halving", "eval/halving", "report"):
            shutil.rmtree(folder / "runs/gone" / name)
    again = made(folder, name="gone")
    one, other = (at / "halving/seed42/adapter_model.safetensors" for at in (again, run))
    assert one.read_bytes() == other.read_bytes()
    assert Done.read(again / "halving/seed42").forward_examples == 16 + 3 * 4


def test_candidates_of_its_own_dev_rows_that_judge_and_a_refit(folder):
    again = made(
        folder,
        name="pairs",
        methods=["halving"],
        seeds=[42],
        final={"refit": True},
        halving={"rows": [4, 8], "dev": True, "candidates": [[0, 0], [0, 1], 0.4], "factor": 2},
    )
    found = HalvingResult.read(again / "learn/halving-seed42")
    assert [len(next(iter(rung.losses.values()))) for rung in found.rungs] == [4, 8]
    assert Row.read(again / "eval/halving/seed42").p == found.best_ratio
    assert Row.read(again / "eval/halving_refit/seed42").p == found.best_ratio
    assert "goes_on" not in json.dumps(Done.read(again / "refit/halving/seed42").inputs)


def test_the_report_shows_the_rungs(run):
    found = HalvingResult.read(run / "learn/halving-seed42")
    summary = (run / "report/summary.md").read_text()
    assert f"halving kept p = {found.best_ratio:g} of 4 candidates" in summary
    assert (run / "report/rungs.png").exists() or list((run / "report").rglob("rungs*.png"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": [2]}, "rows has 1 numbers, and rungs 2"),
        ({"rungs": [0.5, 0.25]}, "rungs must rise"),
    ],
)
def test_what_it_cannot_do_is_said_before_anything_is_trained(folder, given, said):
    with pytest.raises(GraspError, match=said):
        made(folder, name="never", halving={"rows": [2, None], **given})
    assert not (folder / "runs/never/adapters").exists()


def test_a_training_of_one_step_is_not_halved(folder):
    with pytest.raises(GraspError, match="no room for a comparison"):
        made(folder, name="never", final={"training": {"max_steps": 1}})
    assert not (folder / "runs/never/adapters").exists()


@pytest.mark.parametrize("patience", [1, 3])
def test_a_candidate_out_of_patience_is_compared_as_it_stopped(folder, patience):
    training = {"epochs": 8, "patience": patience, "learning_rate": 0.3, "lr_decay_per_epoch": 1.0}
    run = made(
        folder,
        name=f"patience{patience}",
        methods=["grid", "halving"],
        seeds=[42],
        final={"training": training},
        halving={"rows": [2, None], "rungs": [0.9, 0.95], "factor": 2},
    )
    found = HalvingResult.read(run / "learn/halving-seed42")
    steps = {p: Done.read(run / f"grid/p{p:.2f}-seed42").steps for p in GIVEN["grid"]}
    assert min(steps.values()) < 58  # some ended before the first rung
    assert [rung.step for rung in found.rungs] == [58, 61]
    one, other = run / "halving/seed42", run / f"grid/p{found.best_ratio:.2f}-seed42"
    for name in ("adapter_model.safetensors", "dev_losses.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_short_training_has_one_comparison_and_few_rows_all_judge(folder):
    run = made(
        folder,
        name="short",
        methods=["halving"],
        seeds=[42],
        final={"training": {"max_steps": 3}},
        halving={},
    )
    found = HalvingResult.read(run / "learn/halving-seed42")
    assert [(rung.step, len(rung.losses[found.best_ratio])) for rung in found.rungs] == [(1, 4)]


def test_micro_dev_judges_first_and_a_budget_margin_and_groups_count(folder, run):
    more = {"rows": [4, 8], "dev": True, "keep": "noise", "margin": 0.5}
    halved = made(folder, name="noise", methods=["halving"], seeds=[42], halving=more)
    found = HalvingResult.read(halved / "learn/halving-seed42")
    first = HalvingResult.read(run / "learn/halving-seed42").rungs[0]
    for p, losses in first.losses.items():
        assert found.rungs[0].losses[p][:2] == pytest.approx(losses, abs=1e-6)  # micro-dev's first two rows
    assert (found.margin, len(found.rungs[0].kept)) == (0.5, 4)
    # All four to step 2 are 8 of 64 steps, two on to step 4 are 12, three 14.
    for budget, kept in ((0.17, 2), (0.22, 3)):
        given = more | {"budget": budget}
        again = made(folder, name=f"budget{kept}", methods=["halving"], seeds=[42], halving=given)
        assert len(HalvingResult.read(again / "learn/halving-seed42").rungs[0].kept) == kept


def test_rows_of_one_passage_are_one_cluster(tmp_path):
    folder = write_setting(tmp_path, CONFIG)
    for path in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps(row | {"group": "abcdef"[i // 2]}) for i, row in enumerate(rows)]
        path.write_text("\n".join(lines) + "\n")
    task = (folder / "task.yaml").read_text().replace("target: title", "target: title\ngroup: group")
    (folder / "task.yaml").write_text(task)
    halved = made(folder, methods=["halving"], seeds=[42])
    assert HalvingResult.read(halved / "learn/halving-seed42").rungs[-1].groups == ("a", "a", "b", "b")


def test_all_seeds_are_trained_by_one_rule(folder):
    run = made(folder, name="tuned", methods=["halving"], tune={"learning_rate": [1e-3, 1e-2]})
    assert not list(run.glob("tune/halving*"))


def test_several_processes_do_not_halve(folder, monkeypatch):
    monkeypatch.setattr("grasp_lora.workspace.halved.world", lambda: 2)
    with pytest.raises(GraspError, match="start it without a launcher"):
        made(folder, name="never")
