"""The search that a user would take instead of a grid."""

import json

import pytest

from grasp_lora.cost import measure
from grasp_lora.stages.optuna import Optuna, _trials_so_far, new_study, random_trials
from grasp_lora.workspace.files import read_lines
from grasp_lora.workspace.records import Trial

pytest.importorskip("optuna")


def ratios(objective, trials, pruner="median"):
    study = new_study(Optuna(pruner=pruner), random_trials(trials), seed=42)
    study.optimize(lambda trial: objective(trial.suggest_float("p", 0.1, 0.8)), n_trials=trials)
    return [trial.params["p"] for trial in study.trials]


@pytest.mark.parametrize(("trials", "random"), [(1, 1), (3, 1), (7, 2), (30, 10), (100, 10)])
def test_the_first_draws_are_random_and_the_losses_lead_the_others(trials, random):
    assert random_trials(trials) == random
    low, high = (ratios(lambda p, best=best: (p - best) ** 2, trials) for best in (0.1, 0.8))
    assert low[:random] == high[:random]
    if trials > 3:
        assert low[random:] != high[random:]
        assert sum(low[random:]) / len(low[random:]) < sum(high[random:]) / len(high[random:])


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_hopeless_trials_are_stopped(pruner):
    study = new_study(Optuna(pruner=pruner), random_trials(20), seed=42)
    stopped = []

    def objective(trial):
        p = trial.suggest_float("p", 0.1, 0.8)
        for epoch in range(1, 4):
            trial.report(p, epoch)
            if trial.should_prune():
                stopped.append(p)
                break
        return p

    study.optimize(objective, n_trials=20)
    assert stopped
    assert min(stopped) > study.best_params["p"]


COST = '"cost": {"seconds": 3.0}'


@pytest.mark.parametrize(
    "notes",
    ["{", "{}", "[]", "\xff", f"{{{COST}}}", '{"trials": []}', f'{{{COST}, "trials": [{{"p": 0.5}}]}}',
     f'{{{COST}, "trials": [{{"p": 0.5, "dev_loss": []}}]}}',
     f'{{{COST}, "trials": [{{"p": 0.5, "dev_loss": "low"}}]}}'],
)  # fmt: skip
def test_a_search_whose_notes_are_damaged_begins_again(tmp_path, caplog, notes):
    (tmp_path / "checkpoints/trial-1").mkdir(parents=True)
    for name in ("checkpoints/trials.json", "trials.jsonl", ".begun.json"):
        (tmp_path / name).write_text(notes, encoding="latin-1")
    assert _trials_so_far(tmp_path) == []
    assert "trials.json is damaged and is not used; this search begins again" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [".begun.json"]


def test_a_search_goes_on_after_the_trials_that_are_finished(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    one = {"p": 0.5, "dev_loss": [3.0, 2.5]}
    (tmp_path / "checkpoints/trials.json").write_text(
        json.dumps({"trials": [one], "cost": {"seconds": 3.0, "steps": 4}})
    )
    with measure() as cost:
        assert _trials_so_far(tmp_path) == [Trial(**one)]
    assert (cost.seconds > 3, cost.steps) == (True, 4)
    assert list(read_lines(tmp_path / "trials.jsonl")) == [one]
