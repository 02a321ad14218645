"""Ratio and number of epochs chosen by cross-validation, and then all labelled rows trained on."""

from collections.abc import Sequence
from dataclasses import replace

from grasp_lora.config.tree import Config
from grasp_lora.errors import GraspError
from grasp_lora.lm.training import Training
from grasp_lora.methods.method import Method
from grasp_lora.methods.own_ratios import candidates_of, grid_of
from grasp_lora.methods.start import Start
from grasp_lora.ratios import PruneRatio, shown_ratio
from grasp_lora.stages.fold_halving import HALVE_FOLDS
from grasp_lora.stages.folds import CHOOSE_BY_FOLDS
from grasp_lora.workspace.inputs import Fold
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.training import Fixed

__all__ = ["FOLDS"]

REPEATS = 2  # times that the rows are parted anew


def _cross_validate(x: Start, seed: int) -> Stage:
    """Each fold trains its own target adapter, merge and final runs on its own rows, for a fixed number of
    epochs; what it holds out only scores them.
    """
    config = x.config
    if config.target.adapter not in (None, "none"):
        raise GraspError("each fold trains the target's adapter on its own rows, and target.adapter is given")
    if config.final.training.average:
        raise GraspError("it chooses the number of epochs, and training.average takes the mean of all")
    if config.final.training.max_steps is not None:
        raise GraspError("it chooses the number of epochs, and final.training.max_steps counts steps")
    if config.final.pruning == "every_step":
        raise GraspError("it prunes with a fixed mask, and final.pruning is every_step")
    parts, unit = config.cross_validate.folds, config.control.unit
    folds = [Fold(number, parts, repeat) for repeat in range(REPEATS) for number in range(parts)]
    best = (_by_grid if config.cross_validate.search == "grid" else _by_halving)(x.first, folds)
    whole, name = replace(x, sample="all"), f"cross_validate/seed{seed}"
    return whole.train(name, seed, start=whole.merged, mask=Fixed(best, unit), dev=False, like=best)


def _by_grid(x: Start, folds: Sequence[Fold]) -> Stage:
    """Each ratio is trained to its end in each fold."""
    given = {
        "trained": {p: tuple(_trained(x, fold, p) for fold in folds) for p in grid_of(x.config)},
        "held_out": tuple(replace(x, sample=fold).rows(x.config.target, "dev") for fold in folds),
    }
    return Stage(f"folds/seed{x.config.seed}", CHOOSE_BY_FOLDS, given)


def _trained(x: Start, fold: Fold, p: PruneRatio) -> Stage:
    config, inner = x.config, replace(x, sample=fold)
    return inner.train(
        f"{inner.place}p{shown_ratio(p)}-seed{config.seed}",
        config.seed,
        start=inner.merged,
        mask=Fixed(p, config.control.unit),
        training=_every_epoch(config),
    )


def _by_halving(x: Start, folds: Sequence[Fold]) -> Stage:
    """Ratios are dropped on the way, all folds judging."""
    config, inner = x.config, [replace(x, sample=fold) for fold in folds]
    whole = x.fine_tuning(
        config.seed, start=None, mask=Fixed(0.0, config.control.unit), training=_every_epoch(config)
    )
    given = {
        **whole,
        "start": tuple(one.merged for one in inner),
        "train": tuple(one.rows(config.target, "train") for one in inner),
        "dev": tuple(one.rows(config.target, "dev") for one in inner),
        "candidates": candidates_of(config),
        "how": config.halving.model_copy(update={"dev": False}),  # what folds hold out judges
    }
    return Stage(f"folds/seed{config.seed}", HALVE_FOLDS, given)


def _every_epoch(config: Config) -> Training:
    """Each is scored, however bad."""
    training = config.final.training
    return training.model_copy(update={"patience": training.epochs})


FOLDS = (
    Method("cross_validate", "ratio and epochs by folds, all rows", _cross_validate, dev=False, in_all=False),
)
