"""What a user would take instead of a grid today: Optuna's TPE over the ratio, with a pruner."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

from grasp_lora.config import Optuna
from grasp_lora.errors import GraspError
from grasp_lora.stages.inputs import Inputs, flat
from grasp_lora.stages.run_directory import RunDirectory, write_json
from grasp_lora.stages.tuning import Tuning

__all__ = ["import_optuna", "new_study", "optuna_ratio"]


def optuna_ratio(inputs: Inputs, run: RunDirectory) -> Path:
    """Search the ratio with the lowest dev loss after fine-tuning, into `learn_stage("optuna")`.

    A trial is a fine-tuning run at one ratio with the config's `seed`; the pruner sees dev after each epoch
    and may stop it. Leaves `trials.jsonl` and `ratio.json`; like a learned ratio's, the final run is another.

    Raises:
        GraspError: Optuna is not installed.
    """
    config, wanted = inputs.config, inputs.config.optuna
    optuna = import_optuna()
    tuning = Tuning(inputs, run, config.seed, "optuna")
    trials = wanted.trials or max(1, len(config.grid) - 1)  # with the final run, the grid's trainings

    def work(folder: Path) -> None:
        study = new_study(wanted, trials, config.seed)

        def objective(trial: Any) -> float:
            p = trial.suggest_float("p", wanted.p_min, wanted.p_max)
            losses: list[float] = []

            def report(epoch: int, loss: float) -> None:
                losses.append(loss)
                if 0 < epoch < tuning.epochs:  # after the last there is nothing to save
                    trial.report(loss, epoch)
                    if trial.should_prune():
                        raise optuna.TrialPruned

            scratch = folder / "trial"
            try:
                tuning.train(scratch, p, report)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
                _append(folder / "trials.jsonl", {"p": p, "dev_loss": losses})
            return min(losses)

        study.optimize(objective, n_trials=trials)
        best = study.best_trial
        pruned = sum(trial.state.name == "PRUNED" for trial in study.trials)
        ratio = {"p": best.params["p"], "dev_loss": best.value, "trials": trials, "pruned": pruned}
        write_json(folder / "ratio.json", {**ratio, "optuna": optuna.__version__})

    how = {**wanted.model_dump(), "trials": trials, "random_trials": random_trials(trials)}
    dependencies = {**tuning.dependencies(), **flat("optuna", how)}
    return run.stage(inputs.learn_stage("optuna"), dependencies, work)


def random_trials(trials: int) -> int:
    """How many trials are drawn evenly before TPE models the rest; Optuna's own 10 would be all of a few."""
    return min(10, max(1, trials // 3))


def new_study(wanted: Optuna, trials: int, seed: int) -> Any:
    """A study with TPE and the pruner that the config names."""
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # The untouched start is epoch 0 and says nothing about the training: the pruners begin after it.
    if wanted.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    else:
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=random_trials(trials))
    return optuna.create_study(sampler=sampler, pruner=pruner)


def import_optuna() -> Any:
    """The package, or a GraspError that says how to install it."""
    try:
        return importlib.import_module("optuna")
    except ModuleNotFoundError as error:
        raise GraspError(
            "the method optuna needs the package optuna. Install it: pip install 'grasp-lora[search]'"
        ) from error


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
