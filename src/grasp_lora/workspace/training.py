"""The one training of an adapter, whatever it starts from, its rows, its mask, and when it stops."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.control.merge_prune import MergePruneCallback
from grasp_lora.control.policy import RatioPolicy, UniformPolicy
from grasp_lora.control.settings import Control, MergePrune
from grasp_lora.control.units import UnitKind
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora, save_adapter
from grasp_lora.lm.backbone import Backbone
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.epochs import AverageOfEpochs, BestEpoch
from grasp_lora.lm.logs import CHECKPOINTS_FOLDER
from grasp_lora.lm.optimizers import BY_ENTRY
from grasp_lora.lm.pausing import PauseAt
from grasp_lora.lm.saving import newest_checkpoint
from grasp_lora.lm.training import Training
from grasp_lora.merging.parts import read_parts
from grasp_lora.ratios import PerAdapter, PruneRatio
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.chosen import as_chosen, found_by
from grasp_lora.workspace.fit import fit
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.pruned import say_what_mask_pruned, say_what_steps_pruned
from grasp_lora.workspace.records import SURVIVOR_FOLDER, DevLosses, LearnedRatio
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage

__all__ = [
    "POLICIES",
    "EveryStep",
    "Fixed",
    "enough_steps",
    "fine_tune",
    "learn",
    "mask_stays",
]


POLICIES = {"gaussian": RatioPolicy, "uniform": UniformPolicy}


@dataclass(frozen=True)
class Fixed:
    """One mask through the whole run, built before the first step (GRASP Sec. 3.4).

    Attributes:
        ratio: A number, one for each adapter, or the stage that finds either.
        unit: See `control.units.Pruning`.
    """

    ratio: PruneRatio | Stage | Path
    unit: UnitKind = "adapter"


@dataclass(frozen=True)
class EveryStep:
    """No mask, but pruning anew after every step (Miyano & Arase).

    Attributes:
        at: The ratio, or where modules are pruned the threshold: a number, or the stage that finds one.

    Raises:
        GraspError: Each adapter has a ratio of its own.
    """

    at: PruneRatio | Stage | Path
    how: MergePrune

    def __post_init__(self) -> None:
        if isinstance(self.at, PerAdapter):
            raise GraspError(f"pruning at every step takes one ratio for all adapters, not {self.at:g}")


def fine_tune(
    resources: Resources,
    folder: Path,
    *,
    model: Model,
    start: Lora | Path,
    train: Sequence[Example],
    dev: Sequence[Example] | None,
    training: Training,
    limits: Limits,
    seed: int,
    mask: Fixed | EveryStep | None = None,
    beside: Sequence[Example] = (),
    like: Path | None = None,
    goes_on: Path | None = None,
    pause: Callable[[Backbone], PauseAt] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train an adapter into `folder`: the best epoch on dev is kept, the untouched start included, or the
    average of all, or where there is no dev the last.

    Leaves a PEFT adapter, `DevLosses`, and where it was pruned `Pruned` and under a fixed mask the mask.

    Args:
        start: The adapter's folder, or the shape of a new one.
        dev: None: no row is looked at but those of `train`.
        beside: Other rows to train on, as many in each step as of `train`; the loss is the mean of both's.
        like: The folder of what chose the number of epochs, and perhaps the learning rate.
        goes_on: The folder of halving that began this training, whose checkpoint it goes on from.
        pause: Makes what stops it at a step.
        on_epoch: Sees each epoch's dev loss, and may raise to end the run.
    """
    found: list[Any] = []
    if like is not None:
        training = as_chosen(training, like)

    def callbacks(trainer: Trainer, backbone: Backbone) -> list[TrainerCallback]:
        found.clear()
        loss = None if dev is None else resources.loss(dev, backbone, limits)
        kept: list[TrainerCallback] = []
        if training.average:
            kept = [AverageOfEpochs("delta" if training.average == "delta" else "factors")]
        elif loss is not None:
            # Where training itself prunes, the start is not pruned yet and does not count.
            keep_start = not isinstance(mask, EveryStep)
            kept = [
                BestEpoch(
                    trainer, loss, training.patience, on_epoch, keep_start=keep_start, defer=pause is not None
                )
            ]
        if isinstance(mask, Fixed):
            found.append(FixedMaskCallback(found_by(mask.ratio), parts=_parts(start), unit=mask.unit))
        elif isinstance(mask, EveryStep):
            how = mask.how.model_dump(exclude={"thresholds"})
            how |= {mask.how.searched: found_by(mask.at)}
            found.append(MergePruneCallback(validation=loss, parts=_parts(start), **how))
        return [*found, *kept, *([] if pause is None else [pause(backbone)])]

    if goes_on is not None:
        _take_over(goes_on / SURVIVOR_FOLDER, folder)

    trainer, backbone, added = fit(
        resources, folder, model, start, train, training, limits, seed, callbacks, beside=beside
    )
    save_adapter(trainer.model, folder, start if isinstance(start, Path) else None)
    kept = next((one for one in added if isinstance(one, BestEpoch | AverageOfEpochs)), None)
    epoch = None if dev is None else _dev_losses(resources, backbone, trainer, kept, dev, limits, folder)
    if epoch == 0 and isinstance(start, Lora):
        resources.say(
            f"{resources.shown.title}: no epoch was better on dev than not training, so the adapter does "
            "nothing: lower the learning rate, or give it more rows"
        )
    for callback in found:
        if isinstance(callback, MergePruneCallback):
            say_what_steps_pruned(callback, epoch, folder)
        elif callback.masked is not None:
            parts = read_parts(start) if isinstance(start, Path) else None
            say_what_mask_pruned(callback.masked, callback.importance, callback.norms, folder, parts)


def _take_over(begun: Path, folder: Path) -> None:
    """A training that was begun elsewhere, with its checkpoint and logs; where it is gone, nothing."""
    if begun.is_dir() and newest_checkpoint(folder / CHECKPOINTS_FOLDER) is None:
        shutil.copytree(begun, folder, dirs_exist_ok=True)


def _dev_losses(
    resources: Resources,
    backbone: Backbone,
    trainer: Trainer,
    kept: Any,
    dev: Sequence[Example],
    limits: Limits,
    folder: Path,
) -> int | None:
    """Leave `DevLosses`; the epoch that was kept, None where several were averaged."""
    if isinstance(kept, BestEpoch):
        DevLosses(kept.losses, kept.epoch).write(folder)
        return kept.epoch
    loss = resources.loss(dev, backbone, limits)(trainer.model)
    DevLosses((loss,), 0, kept.epochs).write(folder)
    return None


def learn(
    resources: Resources,
    folder: Path,
    *,
    model: Model,
    start: Path,
    train: Sequence[Example],
    micro_dev: Sequence[Example],
    dev: Sequence[Example] | None,
    policy: str,
    control: Control,
    training: Training,
    limits: Limits,
    seed: int,
    adapters: int | None = None,
    watcher: Callable[[GraspCallback], TrainerCallback] | None = None,
) -> GraspCallback:
    """Fine-tune the merged adapter with controller rounds in between (GRASP Sec. 3.3).

    Leaves the rounds' logs and `LearnedRatio`. The weights are not kept: the final run starts from the merged
    adapter (Sec. 3.4).

    Args:
        dev: For one look at p* and its neighbours after the last step.
        policy: Which of `POLICIES` draws the ratios.
        adapters: How many have a ratio of their own; None: one for all.
        watcher: Makes a callback that is added after the controller's.
    """

    def callbacks(trainer: Trainer, backbone: Backbone) -> list[TrainerCallback]:
        grasp = GraspCallback(
            trainer,
            micro_dev,
            dev=dev,
            **asdict(limits),
            policy=POLICIES[policy](**control.policy, adapters=adapters, seed=seed),
            every=control.every,
            parts=_parts(start),
            unit=control.unit,
            importance_refresh=control.importance_refresh,
            select=control.select,
            margin=control.margin,
            reset_moments=control.reset_moments,
            folder=folder,
        )
        return [grasp, *([] if watcher is None else [watcher(grasp)])]

    _, _, added = fit(
        resources, folder, model, start, train, training, limits, seed, callbacks, rounds_every=control.every
    )
    grasp: GraspCallback = added[0]
    result = grasp.result
    if grasp.look is not None:
        grasp.look.write(folder)
    LearnedRatio(
        result.best_ratio,
        adapters=grasp.adapters,
        reward=result.best_reward,
        rule=result.rule,
        rounds=len(result.rounds),
        warnings=grasp.warnings,
    ).write(folder)
    return grasp


def enough_steps(
    resources: Resources, *, train: Sequence[Example], control: Control, training: Training, **_: Any
) -> None:
    """A learning run must be long enough for a round, and the controller must be able to clear moments.

    Raises:
        GraspError: It is not, or cannot.
    """
    if control.every > (steps := training.steps(len(train))):
        raise GraspError(f"it would make no round: every {control.every} steps, training takes {steps}")
    if control.reset_moments and training.optimizer not in BY_ENTRY:
        raise GraspError(
            "the controller clears what the optimizer remembers of entries that it prunes or revives, and "
            f"{training.optimizer} remembers none by itself: set learn.training.optimizer to one of "
            f"{', '.join(BY_ENTRY)}, or control.reset_moments: false"
        )


def mask_stays(resources: Resources, *, training: Training, mask: Any = None, **_: Any) -> None:
    """An average of epochs is under one mask, or none.

    Raises:
        GraspError: It would be under several.
    """
    if training.average == "delta" and mask not in (None, Fixed(0.0)):
        raise GraspError("training.average: delta is of adapters without a mask; true averages under one")
    if training.average and isinstance(mask, EveryStep):
        raise GraspError("training.average is of epochs under one mask, and here every step prunes anew")


def _parts(start: Lora | Path) -> Path | None:
    """The folder whose parts the prune units follow, where there are any."""
    return start if isinstance(start, Path) and read_parts(start) is not None else None
