"""A ratio that is searched: by training at every point of a grid or at ratios of the user's, by Optuna."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from grasp_lora.config.tree import Config
from grasp_lora.errors import GraspError
from grasp_lora.methods.evaluations import best_on_dev
from grasp_lora.methods.method import Group, Method
from grasp_lora.methods.own_ratios import candidates_of, grid_of, own_ratios
from grasp_lora.methods.start import Start
from grasp_lora.ratios import PruneRatio, shown_ratio
from grasp_lora.stages.halving import HALVE
from grasp_lora.stages.optuna import SEARCH, random_trials
from grasp_lora.stages.train import TRAIN
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.training import EveryStep, Fixed

__all__ = ["SEARCHED", "fixed_run", "grid_points"]

Mask = Callable[[PruneRatio | Stage], Fixed | EveryStep]


def grid_points(
    x: Start, folder: str, mask: Mask, thresholds: Sequence[float] = ()
) -> dict[PruneRatio, Stage]:
    """Ratio -> the training at it with the config's seed; or each of the thresholds in its place."""
    seed = x.config.seed
    named: dict[PruneRatio, str] = {t: f"t{t:g}" for t in thresholds}
    if not thresholds:
        named = {p: f"p{shown_ratio(p)}" for p in grid_of(x.config)}
    return {
        at: x.train(f"{folder}/{name}-seed{seed}", seed, start=x.merged, mask=mask(at))
        for at, name in named.items()
    }


def fixed_run(x: Start, p: PruneRatio, seed: int) -> Stage:
    """A final run at a ratio that the user names."""
    name = f"fixed/p{shown_ratio(p)}-seed{seed}"
    return x.train(name, seed, start=x.merged, mask=x.final_mask(p))


def _best_of(x: Start, seed: int, folder: str, mask: Mask, thresholds: Sequence[float] = ()) -> Stage:
    """The best of the grid, which is trained with the config's seed; another seed trains once more at its
    ratio, for the deviation only.
    """
    points = grid_points(x.first, folder, mask, thresholds)
    best = best_on_dev(x.first, f"{folder}/seed{x.config.seed}", points, "threshold" if thresholds else "p")
    if seed == x.config.seed:
        return best
    return x.train(f"{folder}/seed{seed}", seed, start=x.merged, mask=mask(best), counted=False)


def _grid(x: Start, seed: int) -> Stage:
    return _best_of(x, seed, "grid", lambda p: Fixed(p, x.config.control.unit))


def _merge_prune(x: Start, seed: int) -> Stage:
    thresholds = x.config.merge_prune.thresholds
    how = x.config.merge_prune.model_copy(update={"thresholds": ()})  # one more makes no other anew
    if len(thresholds) == 1:  # nothing to search
        mask = EveryStep(thresholds[0], how)
        return x.train(f"merge_prune/seed{seed}", seed, start=x.merged, mask=mask)
    return _best_of(x, seed, "merge_prune", lambda at: EveryStep(at, how), thresholds)


def _optuna(x: Start, seed: int) -> Stage:
    how, mask = x.config.optuna, Fixed(0.0, x.config.control.unit)
    trials = how.trials or max(1, len(grid_of(x.config)) - 1)  # with the final run, the grid's trainings
    how = how.model_copy(update={"trials": trials})
    trial = x.first.fine_tuning(x.config.seed, start=x.first.merged, mask=mask)
    given = {**trial, "how": how, "random_trials": random_trials(trials), **own_ratios(x.config)}
    ratio = Stage(f"learn/optuna-seed{x.config.seed}", SEARCH, given)
    return x.train(f"optuna/seed{seed}", seed, start=x.merged, mask=Fixed(ratio, mask.unit))


def _halving(x: Start, seed: int) -> Stage:
    """The survivor, trained on, at training's own rate; another seed trains once more at its ratio, for the
    deviation only.
    """
    how, mask, own = x.config.halving, Fixed(0.0, x.config.control.unit), x.config.seed
    trial = x.first.fine_tuning(own, start=x.first.merged, mask=mask)
    micro_dev = x.micro_dev(x.config.control.micro_dev)
    given = {**trial, "candidates": candidates_of(x.config), "how": how, "micro_dev": micro_dev}
    found = Stage(f"learn/halving-seed{own}", HALVE, given)
    name, mask = f"halving/seed{seed}", replace(mask, ratio=found)
    if seed != own:
        return Stage(name, TRAIN, x.fine_tuning(seed, start=x.merged, mask=mask), counted=False)
    return Stage(name, TRAIN, {**trial, "mask": mask, "goes_on": found})


def _at(p: PruneRatio) -> Method:
    name = shown_ratio(p)
    return Method(f"sweep_p{name}", f"p = {name}", lambda x, seed: fixed_run(x, p, seed), is_point=True)


def _sweep(config: Config) -> list[Method]:
    if not config.sweep.ratios:
        raise GraspError("the method sweep trains at ratios of yours: set sweep.ratios, such as [0.3, 0.5]")
    return [_at(p) for p in config.sweep.ratios]


SEARCHED = (
    Method("merge_prune", "pruned at every step", _merge_prune),
    Method("grid", "fixed mask, best of the grid", _grid),
    Group("sweep", _sweep, in_all=False),
    Method("optuna", "Optuna", _optuna),
    Method("halving", "halving over fixed masks", _halving),
)
