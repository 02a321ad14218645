"""The search that a user would take instead of a grid."""

import pytest

from grasp_lora.stages.optuna import Optuna, new_study, random_trials

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
