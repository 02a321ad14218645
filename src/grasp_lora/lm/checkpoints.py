"""What a callback knows goes into a Trainer's checkpoints and comes back from them.

A Trainer saves weights, optimizer, scheduler and random states; of callbacks it keeps what JSON can hold.
Here each callback's tensors go beside its files, and the marker that says they are whole is written last.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import TrainerCallback

from grasp_lora.errors import GraspError

__all__ = ["CHECKPOINT", "CarriesState", "misfit", "read_state", "write_state"]

CHECKPOINT = "checkpoint-"  # and the step: what a Trainer calls the folder
STATE_FOLDER = "grasp_lora"  # in it


class CarriesState(TrainerCallback):
    """A callback that `trainer.train(resume_from_checkpoint=...)` continues.

    Attributes:
        checkpoint: The checkpoint that training resumes from, where that is not in the Trainer's own
            `output_dir`: a callback is not told. Set it before `train`.
    """

    checkpoint: str | Path | None = None
    saved_by_trainer = False
    """Whether the Trainer writes its state with its own files, as ours does."""

    def state_dict(self) -> dict[str, Any]:
        """All that a later step depends on: tensors, and values that JSON can hold, by name."""
        raise NotImplementedError

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"{CHECKPOINT}{state.global_step}"
        # A search for hyperparameters has folders of its own.
        if state.is_world_process_zero and not self.saved_by_trainer and folder.is_dir():
            write_state(self, folder, state.global_step)

    def carried(self, args: Any, state: Any) -> dict[str, Any] | None:
        """In `on_train_begin`: the state in the checkpoint that training resumes from; None where it begins.

        Raises:
            GraspError: Training resumes, and there is no such state, or it is damaged.
        """
        if not state.global_step:
            return None
        where = self.checkpoint or Path(args.output_dir) / f"{CHECKPOINT}{state.global_step}"
        return read_state(self, Path(where), state.global_step)


def write_state(callback: CarriesState, checkpoint: Path, step: int) -> None:
    """Its state into the checkpoint's folder: tensors, then the marker with all else.

    Raises:
        OSError: It cannot be written; there is then no marker.
    """
    state = callback.state_dict()
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items() if _is_tensor(value)}
    values = {name: value for name, value in state.items() if not _is_tensor(value)}
    written = save(tensors) if tensors else b""
    marker = _marker(checkpoint, callback)
    marker.parent.mkdir(exist_ok=True)
    marker.unlink(missing_ok=True)  # of another training that wrote here
    if tensors:
        _write(_tensors(checkpoint, callback), written)
    digest = hashlib.sha256(written).hexdigest() if tensors else None
    _write(marker, json.dumps({"step": step, "tensors": digest, "values": values}).encode())


def read_state(callback: CarriesState, checkpoint: Path, step: int) -> dict[str, Any]:
    """What `write_state` wrote.

    Raises:
        GraspError: There is none, or it is damaged, or of another step.
    """
    name = type(callback).__name__
    try:
        said = json.loads(_marker(checkpoint, callback).read_bytes())
        values, of_step, digest = said["values"], said["step"], said["tensors"]
        written = b"" if digest is None else _tensors(checkpoint, callback).read_bytes()
        if not isinstance(values, Mapping) or (written and hashlib.sha256(written).hexdigest() != digest):
            raise ValueError("its tensors are others")
        state = {**values, **(load(written) if written else {})}
    except FileNotFoundError:
        raise GraspError(_nothing_there(name, checkpoint)) from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        raise GraspError(
            f"the state of {name} in {checkpoint} is damaged ({error}): resume from an earlier checkpoint, "
            "or train from the start"
        ) from None
    if of_step != step:
        raise GraspError(f"training resumes at step {step}, and {checkpoint} holds {name} at step {of_step}")
    return state


def misfit(callback: CarriesState, error: Exception) -> GraspError:
    """What to raise where a state does not fit this training."""
    return GraspError(
        f"the checkpoint's state of {type(callback).__name__} does not fit this training ({error}): resume "
        "with the adapter and the settings that it was saved with, or train from the start"
    )


def _nothing_there(name: str, checkpoint: Path) -> str:
    if not checkpoint.is_dir():
        return (
            f"training resumes, and {checkpoint} is not there: set `checkpoint` of the {name} to the folder "
            "that it resumes from"
        )
    steps = checkpoint.parent.glob(f"{CHECKPOINT}*/{STATE_FOLDER}/{name}.json")
    others = sorted((path.parents[1].name for path in steps), key=lambda one: (len(one), one))
    there = f"resume from {others[-1]}, which has it" if others else "train from the start"
    return (
        f"{checkpoint} holds no state of {name}, which would begin anew: it was saved without it, or the "
        f"process ended while it was saved; {there}"
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _marker(checkpoint: Path, callback: CarriesState) -> Path:
    return checkpoint / STATE_FOLDER / f"{type(callback).__name__}.json"


def _tensors(checkpoint: Path, callback: CarriesState) -> Path:
    return checkpoint / STATE_FOLDER / f"{type(callback).__name__}.safetensors"


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    sibling = path.with_name(path.name + ".partial")
    with sibling.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sibling.replace(path)
