"""Training an adapter into a folder, from its last checkpoint where there is one."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, set_seed

from grasp_lora.cost import Cost, go_on_from, so_far
from grasp_lora.lm.adapters import Lora, load_adapter, new_adapter
from grasp_lora.lm.backbone import Backbone
from grasp_lora.lm.checkpoints import CannotGoOn
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.logs import CHECKPOINTS_FOLDER
from grasp_lora.lm.reporting import ends_its_runs
from grasp_lora.lm.saving import SaveOften, Saving, newest_checkpoint, step_of
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.files import empty
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.records import Begun
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.unfinished import PARTIAL

__all__ = ["fit"]

logger = logging.getLogger(__name__)
Fitted = tuple[Trainer, Backbone, list[Any]]


def fit(resources: Resources, folder: Path, *given: Any, **more: Any) -> Fitted:
    """Load, train to the end, and return the trainer and the callbacks that were added, in their order.

    Where the folder holds a checkpoint, training goes on from it.

    Args:
        given, more: As `_fit` has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spent = so_far() or Cost()  # by earlier trainings of the same stage
    if (checkpoint := newest_checkpoint(folder / CHECKPOINTS_FOLDER)) is not None:
        try:
            return _fit(resources, folder, checkpoint, *given, **more)
        except CannotGoOn as error:  # an earlier version's, for example: it would be in the way for ever
            logger.warning("%s; this training begins again", error)
            go_on_from(spent)
    empty(folder, keep=[Begun.FILE])  # logs of a training that was ended before its first checkpoint
    return _fit(resources, folder, None, *given, **more)


def _fit(
    resources: Resources,
    folder: Path,
    checkpoint: Path | None,
    model: Model,
    start: Lora | Path,
    train: Sequence[Example],
    training: Training,
    limits: Limits,
    seed: int,
    callbacks: Callable[[Trainer, Backbone], list[TrainerCallback]],
    *,
    beside: Sequence[Example] = (),
    rounds_every: int | None = None,
) -> Fitted:
    backbone = resources.backbone(model)
    if isinstance(start, Lora):
        set_seed(seed)  # A is drawn from the global generator
        adapted = new_adapter(backbone.model, start)
    else:
        adapted = load_adapter(backbone.model, start, trainable=True)
    if training.warmup >= (steps := training.steps(len(train))) > 0:
        resources.say(
            f"warmup takes {training.warmup:g} steps, and a training has {steps}: its learning rate does "
            f"not get to {training.learning_rate:g}"
        )
    encoded = resources.encode(train, backbone, limits)
    part = "" if folder.suffix == PARTIAL else folder.name  # a search trains in folders of its stage's
    others = resources.encode(beside, backbone, limits)
    step = 0 if checkpoint is None else step_of(checkpoint)
    if step:
        resources.shown.say(f"goes on after step {step}")
    trainer = build_trainer(
        adapted,
        backbone.tokenizer,
        encoded,
        training,
        seed,
        folder,
        part,
        beside=others,
        shown=resources.shown,
        from_step=step,
        report_to=resources.report_to,
        run_name="/".join(filter(None, [resources.run_name, part])) or None,
    )
    added = callbacks(trainer, backbone)
    saving = Saving(resources.checkpoint_every, rounds_every, resources.stopping)
    for callback in (*added, SaveOften(saving)):
        trainer.add_callback(callback)
    with resources.stopping.looked_at(), ends_its_runs(trainer):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer, backbone, added
