"""A ratio that is searched: by training at every point of a grid, or at Optuna's."""

from collections.abc import Callable

from grasp_lora.methods.method import Method
from grasp_lora.methods.start import Start
from grasp_lora.stages.choose import CHOOSE
from grasp_lora.stages.optuna import SEARCH, random_trials
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.training import EveryStep, Fixed

__all__ = ["SEARCHED", "grid_points"]


def grid_points(x: Start, folder: str, mask: Callable[[float], Fixed | EveryStep]) -> dict[float, Stage]:
    """Ratio -> the training at it with the config's seed."""
    seed = x.config.seed
    return {
        p: x.train(f"{folder}/p{p:.2f}-seed{seed}", seed, start=x.merged, mask=mask(p)) for p in x.config.grid
    }


def _best_of_grid(
    x: Start, seed: int, folder: str, mask: Callable[[float | Stage], Fixed | EveryStep]
) -> Stage:
    """The best of the grid, which is trained with the config's seed; another seed trains once more at its
    ratio, for the deviation only.
    """
    best = Stage(f"{folder}/seed{x.config.seed}", CHOOSE, {"points": grid_points(x, folder, mask)})
    if seed == x.config.seed:
        return best
    return x.train(f"{folder}/seed{seed}", seed, start=x.merged, mask=mask(best), counted=False)


def _grid(x: Start, seed: int) -> Stage:
    return _best_of_grid(x, seed, "grid", lambda p: Fixed(p, x.config.control.unit))


def _merge_prune(x: Start, seed: int) -> Stage:
    how = x.config.merge_prune
    if how.unit == "module":  # by a threshold, so there is no ratio to find
        return x.train(f"merge_prune/seed{seed}", seed, start=x.merged, mask=EveryStep(0.0, how))
    return _best_of_grid(x, seed, "merge_prune", lambda p: EveryStep(p, how))


def _optuna(x: Start, seed: int) -> Stage:
    how, mask = x.config.optuna, Fixed(0.0, x.config.control.unit)
    trials = how.trials or max(1, len(x.config.grid) - 1)  # with the final run, the grid's trainings
    how = how.model_copy(update={"trials": trials})
    trial = x.train("", x.config.seed, start=x.merged, mask=mask)
    given = {**trial.given, "how": how, "random_trials": random_trials(trials)}
    ratio = Stage(f"learn/optuna-seed{x.config.seed}", SEARCH, given)
    return x.train(f"optuna/seed{seed}", seed, start=x.merged, mask=Fixed(ratio, mask.unit))


SEARCHED = (
    Method("merge_prune", "pruned at every step", _merge_prune),
    Method("grid", "fixed mask, best of the grid", _grid),
    Method("optuna", "Optuna", _optuna),
)
