"""Fine-tuning an adapter through `transformers.Trainer`, the same way in every stage."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import nn
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from grasp_lora.cost import count_passes
from grasp_lora.errors import GraspError
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.checkpoints import CarriesState, misfit
from grasp_lora.lm.encoding import Encoded
from grasp_lora.lm.logs import CHECKPOINTS_FOLDER, TRAIN_LOG_FILE
from grasp_lora.lm.optimizers import Optimizer, Scheduler, check_schedule, without_decay
from grasp_lora.lm.pairs import FindsPlace, Pairs, TrainerOfPairs, collate_pairs
from grasp_lora.lm.passes import PlainAgain, computed_twice
from grasp_lora.lm.progress import Progress
from grasp_lora.lm.reporting import report, reporters_of_the_trainer
from grasp_lora.lm.saving import CarriesCost, CarriesLoss, SavingTrainer
from grasp_lora.lm.shown import Shown
from grasp_lora.ranks import world
from grasp_lora.settings import FREE, LATER, Count, NotNegative, Settings

__all__ = ["Training", "build_trainer"]


class Training(Settings):
    """How an adapter is trained (GRASP Table 7; the decay is the authors' code's)."""

    epochs: Count = 10
    """Passes over the training rows at most; dev may end it before."""
    max_steps: Count | None = None
    """Optimizer steps; where given, it decides instead of epochs."""
    batch_size: Count = 1
    """Rows of one forward and backward pass."""
    gradient_accumulation: Count = 1
    """Batches of one optimizer step."""
    optimizer: Annotated[Optimizer, LATER] = "adamw_torch"
    """As the Trainer's `optim`; a controller that clears moments needs one that has some of each entry."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1e37)] = 1e-4
    """The optimizer's, in the first epoch; a schedule's highest."""
    lr_decay_per_epoch: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    """What multiplies the rate after an epoch; 1.0, the default beside an lr_scheduler, keeps it as it is."""
    lr_scheduler: Annotated[Scheduler | None, LATER] = None
    """As the Trainer's `lr_scheduler_type`, over all steps, instead of a decay per epoch."""
    warmup: Annotated[NotNegative, LATER] = 0.0
    """Of an lr_scheduler: the steps in which the rate rises, or where less than 1 their share of all."""
    weight_decay: NotNegative = 0.0
    """The optimizer's."""
    max_grad_norm: NotNegative = 1.0
    """The norm at which gradients are clipped; 0 does not clip."""
    patience: Count = 3
    """Epochs without a better dev loss after which training ends."""
    average: bool | Literal["delta"] = False
    """Keep the mean of all epochs' A and B (delta: of B A), the start excluded, not the best on dev."""
    gradient_checkpointing: Annotated[bool, FREE] = False
    """Keep each layer's input alone, and compute the layer twice: less memory, a third more time, and the
    same results."""
    torch_compile: Annotated[bool, LATER] = False
    """Compile the layers, for the passes of training, dev losses and probes: seconds whenever another kind of
    passes begins, and less time for each pass after."""

    _schedule: int | None = PrivateAttr(default=None)
    """Epochs of the schedule, where a training ends before."""

    _without_decay = model_validator(mode="before")(without_decay)

    @model_validator(mode="after")
    def _one_schedule(self) -> "Training":
        check_schedule(self.lr_scheduler, self.lr_decay_per_epoch, self.warmup)
        return self

    def ended_after(self, epochs: int) -> "Training":
        """The first epochs of it: a schedule goes on as if all were to come."""
        shorter = self.model_copy(update={"epochs": epochs, "max_steps": None})
        shorter._schedule = None if self.lr_scheduler is None else self.epochs
        return shorter

    def steps_per_epoch(self, examples: int) -> int:
        """Optimizer steps that it takes to see every example once."""
        return math.ceil(examples / (self.batch_size * self.gradient_accumulation))

    def steps(self, examples: int) -> int:
        """Optimizer steps of a whole run in one process."""
        return self.max_steps or self.epochs * self.steps_per_epoch(examples)

    def each_of(self, processes: int, *, pairs: bool = False) -> "Training":
        """What each of several processes does, so that a step has the same rows in all as of one process.

        Args:
            pairs: Whether rows are trained on in pairs, whose batches' means are of whole batches.

        Raises:
            GraspError: They cannot be shared.
        """
        if self.gradient_accumulation % processes == 0:
            return self.model_copy(update={"gradient_accumulation": self.gradient_accumulation // processes})
        if self.batch_size % processes == 0 and not pairs:
            return self.model_copy(update={"batch_size": self.batch_size // processes})
        divide = "gradient_accumulation, with source rows beside" if pairs else "one of the two"
        raise GraspError(
            f"{processes} processes cannot share a step of batch_size {self.batch_size} x "
            f"gradient_accumulation {self.gradient_accumulation}: start as many as divide {divide}"
        )


def build_trainer(
    model: nn.Module,
    tokenizer: Any,
    examples: Sequence[Encoded],
    training: Training,
    seed: int,
    folder: Path,
    title: str,
    beside: Sequence[Encoded] = (),
    shown: Shown | None = None,
    from_step: int = 0,
    report_to: Sequence[str] | None = None,
    run_name: str | None = None,
) -> SavingTrainer:
    """A Trainer with a progress bar, a log and by default TensorBoard events in `folder`.

    It neither evaluates nor saves: add `BestEpoch` to keep the best epoch, `SaveOften` for checkpoints in
    `checkpoints/`, and save the adapter after.

    Args:
        model: A PEFT model with a trainable adapter.
        examples: The encoded training set.
        seed: Of the examples' order and of dropout.
        title: What the progress bar calls the run; where `shown` is given, which part of its work it is.
        beside: Where given, each batch is trained on together with as many of these, and the loss is the mean
            of the two batches' losses. They come in a random order, all before one comes again.
        shown: Who shows how far it is.
        from_step: Of the checkpoint that it will resume from: what TensorBoard has beyond it is hidden.
        report_to: The Trainer's names of whom it reports to; None: TensorBoard, where it is installed.
        run_name: What these call it.
    """
    own = training.each_of(world(), pairs=bool(beside))
    arguments = _arguments(own, seed, folder, next(model.parameters()).device)
    arguments.report_to, arguments.run_name = reporters_of_the_trainer(report_to), run_name
    collator = TargetCollator(tokenizer, model)
    kind: type[SavingTrainer] = TrainerOfPairs if beside else SavingTrainer
    pairs = Pairs(examples, beside, seed, arguments.train_batch_size) if beside else None
    sums = CarriesLoss()
    trainer = kind(
        model=model,
        args=arguments,
        data_collator=partial(collate_pairs, collator) if beside else collator,
        train_dataset=examples if pairs is None else pairs,
        processing_class=tokenizer,
        optimizers=(_adamw(model, training) if training.optimizer == "adamw_torch" else None, None),
        callbacks=[CarriesCost(), sums, _Log(folder / TRAIN_LOG_FILE), Progress(shown or Shown(), title)],
    )
    sums.trainer = trainer
    trainer.compiles = training.torch_compile
    optimizer = trainer.create_optimizer()  # the one that it was given, or its own of that name
    if training.lr_scheduler is None:
        trainer.lr_scheduler = torch.optim.lr_scheduler.StepLR(
            optimizer, training.steps_per_epoch(len(examples)), gamma=training.lr_decay_per_epoch
        )
    elif training._schedule is not None:
        whole = training._schedule * training.steps_per_epoch(len(examples))
        warmup = trainer.args.get_warmup_steps(whole)
        trainer.lr_scheduler = get_scheduler(training.lr_scheduler, optimizer, warmup, whole)
    if training.gradient_checkpointing:
        trainer.add_callback(PlainAgain())
    if pairs is not None:
        trainer.add_callback(FindsPlace(pairs))
    model.register_forward_pre_hook(_count_training_passes, with_kwargs=True)
    for default in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(default)
    report(trainer, report_to, folder, from_step)
    return trainer


def _adamw(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """All factors in one group, as checkpoints of it have them; the Trainer's own has two."""
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
    )


def _arguments(training: Training, seed: int, folder: Path, device: torch.device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS_FOLDER),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        optim=training.optimizer,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        lr_scheduler_type=training.lr_scheduler or "constant",
        warmup_steps=training.warmup,
        max_grad_norm=training.max_grad_norm,
        seed=seed,
        logging_steps=10,
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen, not averaged away
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type != "cpu",
        **(computed_twice() if training.gradient_checkpointing else {}),
    )
    # On two GPUs or more the Trainer would split each batch among them and take as many times more examples a
    # step: other results than on one. It sets this attribute itself where a model must not be split.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _count_training_passes(model: nn.Module, _: Any, batch: Mapping[str, Any]) -> None:
    if model.training:
        count_passes(forward=len(batch["input_ids"]), backward=len(batch["input_ids"]))


class _Log(CarriesState):
    """One JSON line per log call. A loss that is not finite ends the run before anything is saved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"bytes": self.path.stat().st_size if self.path.exists() else 0}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (carried := self.carried(args, state)) is None or not self.path.exists():
            return
        try:
            length = int(carried["bytes"])
        except (KeyError, TypeError, ValueError) as error:
            raise misfit(self, error) from None
        os.truncate(self.path, min(length, self.path.stat().st_size))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        logs = logs or {}
        for loss in (
            logs[key] for key in ("loss", "train_loss") if key in logs
        ):  # the last is the whole run's
            if not math.isfinite(loss):
                raise GraspError(
                    f"the training loss at step {state.global_step} is {loss}; lower the learning rate"
                )
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                line = {"step": state.global_step, "max_steps": state.max_steps, **logs}
                file.write(json.dumps(line) + "\n")
