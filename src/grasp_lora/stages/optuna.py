"""What a user would take instead of a grid today: Optuna's TPE over the ratio, with a pruner."""

import importlib
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from grasp_lora.cost import Cost, go_on_from, so_far
from grasp_lora.errors import GraspError
from grasp_lora.lm.logs import CHECKPOINTS_FOLDER
from grasp_lora.lm.training import Training
from grasp_lora.ratios import MOST, PerAdapter, PruneRatio
from grasp_lora.settings import Count, Ratio, Settings
from grasp_lora.workspace.files import append_line, empty, write_lines
from grasp_lora.workspace.passes import passes_of_training
from grasp_lora.workspace.records import Begun, LearnedRatio, Record, Trial
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work
from grasp_lora.workspace.training import Fixed, fine_tune

__all__ = ["SEARCH", "Optuna", "new_study", "random_trials"]

logger = logging.getLogger(__name__)


class Optuna(Settings):
    """TPE over the ratio, or one for each adapter, and a pruner of hopeless trials."""

    trials: Count | None = None
    """Trainings of the search; null: with the final run as many as the grid has."""
    pruner: Literal["median", "asha"] = "median"
    """Which ends hopeless trials; it sees dev after each epoch, so it needs two or more."""
    p_min: Ratio = 0.1
    """The smallest ratio that is tried."""
    p_max: Ratio = 0.8
    """The largest ratio that is tried."""

    @model_validator(mode="after")
    def _ordered(self) -> "Optuna":
        if self.p_min > self.p_max:
            raise ValueError(f"need p_min <= p_max, got {self.p_min}, {self.p_max}")
        return self


@dataclass(frozen=True, slots=True)
class _Finished(Record):
    """The trials so far and what they took, among what is gone once the stage is finished."""

    FILE: ClassVar[str] = f"{CHECKPOINTS_FOLDER}/trials.json"

    trials: Sequence[Trial]
    cost: Cost

    def __post_init__(self) -> None:
        if not all(trial.dev_loss for trial in self.trials):
            raise ValueError("a trial without a dev loss")


def search(
    resources: Resources,
    folder: Path,
    *,
    how: Optuna,
    random_trials: int,
    train: Sequence[Any],
    training: Training,
    mask: Fixed,
    seed: int,
    adapters: int | None = None,
    **given: Any,
) -> None:
    """Search the ratio with the lowest dev loss after fine-tuning.

    A trial is a training run at one ratio; the pruner sees dev after each epoch and may stop it. Leaves
    `Trial` lines and `LearnedRatio`; like a learned ratio's, the final run is another. What trials an ended
    process left are told to the study again, which then asks for the same ratios.

    Args:
        random_trials: How many of them are drawn evenly.
        adapters: How many have a ratio of their own, `p_0`, `p_1` and so on; None: one for all, `p`.
        given: The rest of `workspace.training.fine_tune`'s arguments.
    """
    optuna = _optuna()
    study = new_study(how, random_trials, seed)
    known = _trials_so_far(folder)
    last = math.ceil(training.steps(len(train)) / training.steps_per_epoch(len(train)))  # epoch

    def objective(trial: Any) -> float:
        p = suggested(trial, how, adapters)
        losses: list[float] = []

        def report(epoch: int, loss: float) -> None:
            if epoch == 0:  # perhaps once more, where a checkpoint did not fit
                losses.clear()
            losses.append(loss)
            if 0 < epoch < last:  # after the last there is nothing to save
                trial.report(loss, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned

        if trial.number < len(known) and known[trial.number].p != p:  # by another version of Optuna
            del known[trial.number :]
        if trial.number < len(known):
            for epoch, loss in enumerate(known[trial.number].dev_loss):
                report(epoch, loss)
            return min(losses)
        scratch = folder / CHECKPOINTS_FOLDER / f"trial-{trial.number}"
        try:
            fine_tune(
                resources,
                scratch,
                train=train,
                training=training,
                mask=replace(mask, ratio=p),
                seed=seed,
                on_epoch=report,
                **given,
            )
        except optuna.TrialPruned:
            _finish(folder, scratch, known, Trial(p, losses))
            raise
        _finish(folder, scratch, known, Trial(p, losses))
        return min(losses)

    study.optimize(objective, n_trials=how.trials)
    best = study.best_trial
    LearnedRatio(
        _ratio([best.params[name] for name in _names(adapters)], adapters),
        dev_loss=best.value,
        trials=how.trials,
        pruned=sum(trial.state.name == "PRUNED" for trial in study.trials),
        optuna=optuna.__version__,
    ).write(folder)


def suggested(trial: Any, how: Optuna, adapters: int | None) -> PruneRatio:
    """The ratio of a trial, or one for each adapter: all 1, which leaves nothing, is 0.99 of the last."""
    drawn = [trial.suggest_float(name, how.p_min, how.p_max) for name in _names(adapters)]
    return _ratio(drawn, adapters)


def _names(adapters: int | None) -> list[str]:
    return ["p"] if adapters is None else [f"p_{i}" for i in range(adapters)]


def _ratio(drawn: Sequence[float], adapters: int | None) -> PruneRatio:
    if adapters is None:
        return drawn[0]
    return PerAdapter([*drawn[:-1], MOST] if min(drawn) == 1.0 else drawn)


def _trials_so_far(folder: Path) -> list[Trial]:
    """Those that an ended process finished; what they took is counted."""
    notes = folder / _Finished.FILE
    if not notes.exists():
        (folder / Trial.FILE).unlink(missing_ok=True)
        return []
    try:
        found = _Finished.read(folder)
    except GraspError:
        logger.warning("%s is damaged and is not used; this search begins again", notes)
        empty(folder, keep=[Begun.FILE])
        return []
    go_on_from(found.cost)
    write_lines(folder / Trial.FILE, map(asdict, found.trials))
    return list(found.trials)


def _finish(folder: Path, scratch: Path, known: list[Trial], trial: Trial) -> None:
    """Note a trial, and what all took."""
    known.append(trial)
    (folder / _Finished.FILE).parent.mkdir(exist_ok=True)
    _Finished(known, so_far() or Cost()).write(folder)
    append_line(folder / Trial.FILE, asdict(trial))
    shutil.rmtree(scratch, ignore_errors=True)


def random_trials(trials: int) -> int:
    """How many trials are drawn evenly before TPE models the rest; Optuna's own 10 would be all of a few."""
    return min(10, max(1, trials // 3))


def new_study(how: Optuna, random_trials: int, seed: int) -> Any:
    """A study with TPE and the pruner that the settings name."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # The untouched start is epoch 0 and says nothing about the training: the pruners begin after it.
    if how.pruner == "median":
        pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    else:
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=random_trials)
    return optuna.create_study(sampler=sampler, pruner=pruner)


def _installed(resources: Resources, **_: Any) -> None:
    _optuna()


def _optuna() -> Any:
    """The package, or a GraspError that says how to install it."""
    try:
        return importlib.import_module("optuna")
    except ModuleNotFoundError as error:
        raise GraspError(
            "the method optuna needs the package optuna. Install it: pip install 'grasp-lora[search]'"
        ) from error


def _passes(*, how: Optuna, **given: Any) -> int:
    assert how.trials is not None, "set from the grid's length"
    return how.trials * passes_of_training(**given)


def _about(folder: Path, **_: Any) -> str:
    found = LearnedRatio.read(folder)
    return f"Optuna found the ratio: {found.trials} trials, {found.pruned} of them stopped early."


SEARCH = Work(search, ready=_installed, passes=_passes, about=_about, resumes=True)
