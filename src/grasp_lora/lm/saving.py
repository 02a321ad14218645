"""Checkpoints of our own training: whole or absent, with the state of every callback, often enough."""

import errno
import json
import logging
import math
import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback

from grasp_lora.cost import Cost, go_on_from, so_far
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import without_card
from grasp_lora.lm.checkpoints import CarriesState, misfit, write_state
from grasp_lora.lm.logs import CHECKPOINT, WHOLE_FILE
from grasp_lora.lm.passes import compiled_layers, logits_in_one_product
from grasp_lora.paths import digest, sync
from grasp_lora.ranks import gathered, is_first, largest, rank, world
from grasp_lora.stopping import Stopping

__all__ = [
    "CarriesCost",
    "CarriesLoss",
    "SaveOften",
    "Saving",
    "SavingTrainer",
    "newest_checkpoint",
    "step_of",
]


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saving:
    """When a training leaves checkpoints: after each epoch, and every so many steps.

    Attributes:
        every: Optimizer steps; None: no checkpoint at all.
        rounds_every: Optimizer steps of a controller's round, where there is one.
        stopping: Who asks to end it.
    """

    every: int | None = None
    rounds_every: int | None = None
    stopping: Stopping = field(default_factory=Stopping)

    def is_due(self, step: int) -> bool:
        """Whether there is one after this many steps."""
        often = [every for every in (self.every, self.rounds_every) if every is not None]
        return self.every is not None and any(step % every == 0 for every in often)


class SavingTrainer(Trainer):
    """A Trainer whose newest checkpoint is whole, whenever the process ends.

    It is written beside the previous one, synced, renamed, and only then is the previous one removed. It
    holds the adapter, the optimizer, the scheduler, all random states and what callbacks carry; neither the
    tokenizer nor a pickle of the arguments, which nobody reads. Of several processes each has an
    `output_dir` of its own, and the first one's checkpoint is of all.

    Attributes:
        compiles: Whether layers are compiled while it trains.
    """

    compiles = False
    _being_written: Path | None = None

    def train(self, *given: Any, **more: Any) -> Any:
        compiled = compiled_layers(self.model) if self.compiles else nullcontext()
        with logits_in_one_product(self.model), compiled:
            return super().train(*given, **more)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._being_written or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder, step = Path(self.args.output_dir), self.state.global_step
        self._check_finite(step)
        name = f"{CHECKPOINT}{step}"
        self._being_written = partial = folder / "being-written"  # no name that is taken for a checkpoint's
        try:
            shutil.rmtree(partial, ignore_errors=True)
            super()._save_checkpoint(model, trial)
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, CarriesState):
                    carried = callback.state_dict()  # on every process, which may put their parts together
                    callback.written_at = step
                    if is_first():
                        write_state(callback, carried, partial / name, step)
            if not is_first():
                return
            written = {str(p.relative_to(partial / name)): digest(p) for p in _files(partial / name)}
            (partial / name / WHOLE_FILE).write_text(json.dumps(written), encoding="utf-8")
            for log in (path for path in folder.parent.iterdir() if path.is_file()):
                sync(log)  # which the checkpoint says how long it is
            sync(partial / name)
            shutil.rmtree(folder / name, ignore_errors=True)
            (partial / name).rename(folder / name)
            sync(folder, deep=False)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch says a full disk as a RuntimeError
            full = shutil.disk_usage(folder).free < 1 << 20
            if isinstance(error, RuntimeError) and not full and "writ" not in str(error):  # of memory, say
                raise
            why = os.strerror(errno.ENOSPC) if full else error
            before = [one.name for one in _checkpoints(folder)]
            there = f"it goes on from {before[0]}" if before else "it begins this training again"
            raise GraspError(
                f"the checkpoint at step {step} cannot be written to {folder} ({why}): mend that, and run "
                f"the same command: {there}"
            ) from None
        finally:
            self._being_written = None
            shutil.rmtree(partial, ignore_errors=True)
        for old in _checkpoints(folder):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)

    def _save_rng_state(self, output_dir: str) -> None:
        os.makedirs(output_dir, exist_ok=True)
        super()._save_rng_state(output_dir)
        if world() > 1:
            own = f"rng_state_{rank()}.pth"  # what the Trainer calls it
            states = gathered((Path(output_dir) / own).read_bytes())
            for number, written in enumerate(states if is_first() else ()):
                (Path(output_dir) / f"rng_state_{number}.pth").write_bytes(written)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with without_card(self.model):
            self.model.save_pretrained(output_dir, state_dict=state_dict, save_embedding_layers=False)

    def _check_finite(self, step: int) -> None:
        """A checkpoint of weights that are not finite would replace the last good one."""
        trained = [p.detach() for p in self.model.parameters() if p.requires_grad]
        first = trained[0].device  # a backbone may be spread over several
        total = torch.stack([p.double().sum().to(first) for p in trained]).sum().item()
        if not math.isfinite(total):
            raise GraspError(f"the weights at step {step} are not finite; lower the learning rate")


class SaveOften(TrainerCallback):
    """Asks for checkpoints, and ends training after one where somebody asked. Add it last."""

    def __init__(self, saving: Saving) -> None:
        self.saving = saving

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # What follows the last step of an epoch, such as its evaluation, belongs to the checkpoint.
        if not float(state.epoch).is_integer():
            self._ask(state, control, self.saving.is_due(state.global_step))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._ask(state, control, self.saving.every is not None)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saving.stopping.end(f"it ended after step {state.global_step}; the same command goes on there")

    def _ask(self, state: Any, control: Any, due: bool) -> None:
        if control.should_training_stop:  # and what was trained is saved for good in a moment
            return
        # A signal reaches several processes at different steps.
        self.saving.stopping.requested = largest(self.saving.stopping.requested)
        if self.saving.every is None:
            self.saving.stopping.end("no checkpoints are kept; the same command begins this training again")
        elif due or self.saving.stopping.requested:
            control.should_save = True


class CarriesLoss(CarriesState):
    """The Trainer's sums of the loss since the last log line, and since the start, so that a log goes on."""

    sums = ("_total_loss_scalar", "_globalstep_last_logged")

    def __init__(self) -> None:
        self.trainer: Any = None

    def settings(self) -> dict[str, Any]:
        return {"processes": world()}

    def state_dict(self) -> dict[str, Any]:
        each = gathered(self.trainer._tr_loss.item())  # the Trainer averages them when it logs
        return {"_tr_loss": each, **{n: getattr(self.trainer, n) for n in self.sums}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (carried := self.carried(args, state)) is not None:
            try:
                self.trainer._tr_loss.fill_(carried["_tr_loss"][rank()])
                for name in self.sums:
                    setattr(self.trainer, name, carried[name])
            except (KeyError, TypeError, IndexError) as error:
                raise misfit(self, error) from None
            self.trainer._initial_global_step = 0


class CarriesCost(CarriesState):
    """What was spent before the checkpoint counts in what the whole took."""

    def state_dict(self) -> dict[str, Any]:
        cost = so_far()
        own = {} if cost is None else asdict(cost)
        return own if world() == 1 else {"each": gathered(own)}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if spent := self.carried(args, state):
            try:
                go_on_from(Cost(**(spent["each"][rank()] if "each" in spent else spent)))
            except (TypeError, IndexError) as error:  # another version's has other fields
                raise misfit(self, error) from None


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in the folder whose files are all as they were written; None: there is none."""
    for checkpoint in _checkpoints(folder):
        if _is_whole(checkpoint):
            return checkpoint
        logger.warning("%s is damaged and is not used", checkpoint)
    return None


def step_of(checkpoint: Path) -> int:
    """The optimizer steps before it."""
    return int(checkpoint.name.removeprefix(CHECKPOINT))


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if path.name.removeprefix(CHECKPOINT).isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def _is_whole(checkpoint: Path) -> bool:
    try:
        written = json.loads((checkpoint / WHOLE_FILE).read_bytes())
        files = {
            str(p.relative_to(checkpoint)): digest(p) for p in _files(checkpoint) if p.name != WHOLE_FILE
        }
    except (OSError, ValueError, RecursionError):
        return False
    return bool(written == files)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
