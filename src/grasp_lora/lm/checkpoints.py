"""What a callback knows goes into a Trainer's checkpoints and comes back from them.

A Trainer saves weights, optimizer, scheduler and random states; of callbacks it keeps what JSON can hold.
Here each callback's tensors go beside its files, and the marker that says they are whole is written last.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import TrainerCallback

from grasp_lora.errors import GraspError
from grasp_lora.lm.logs import CHECKPOINT
from grasp_lora.paths import write_whole

__all__ = ["CannotGoOn", "CarriesState", "check_settings", "misfit", "plain", "read_state", "write_state"]

STATE_FOLDER = "grasp_lora"  # in it


class CannotGoOn(GraspError):
    """A checkpoint has no state, or one that does not fit."""


class CarriesState(TrainerCallback):
    """A callback that `trainer.train(resume_from_checkpoint=...)` continues.

    Attributes:
        checkpoint: The checkpoint that training resumes from, where that is not in the Trainer's own
            `output_dir`: a callback is not told. Set it before `train`.
        prunes: Whether it prunes the adapter; two that do would undo each other's work.
    """

    prunes = False

    checkpoint: str | Path | None = None
    written_at: int | None = None  # the step of a checkpoint whose Trainer has written this as well

    def state_dict(self) -> dict[str, Any]:
        """All that a later step depends on: tensors, and values that JSON can hold, by name."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What a training that resumes must have in common with the one that was saved, for JSON."""
        return {}

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"{CHECKPOINT}{state.global_step}"
        # Without the optimizer nothing can go on. A search for hyperparameters has folders of its own.
        if self.written_at == state.global_step or args.save_only_model:
            return
        carried = self.state_dict()  # on every rank, which may have to put their parts together
        if state.is_world_process_zero and folder.is_dir():
            write_state(self, carried, folder, state.global_step)

    def carried(self, args: Any, state: Any) -> dict[str, Any] | None:
        """In `on_train_begin`: the state in the checkpoint that training resumes from; None where it begins.

        Raises:
            GraspError: Training resumes, and the state is not there, damaged, or made with other settings.
        """
        if not state.global_step:
            return None
        where = self.checkpoint or Path(args.output_dir) / f"{CHECKPOINT}{state.global_step}"
        return read_state(self, Path(where), state.global_step)


def write_state(callback: CarriesState, state: Mapping[str, Any], checkpoint: Path, step: int) -> None:
    """A callback's state into the checkpoint's folder: tensors, then the marker with all else.

    Raises:
        OSError: It cannot be written; there is then no marker.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items() if _is_tensor(value)}
    values = {name: value for name, value in state.items() if not _is_tensor(value)}
    written = save(tensors) if tensors else b""
    marker = _marker(checkpoint, callback)
    marker.parent.mkdir(exist_ok=True)
    marker.unlink(missing_ok=True)  # of another training that wrote here
    if tensors:
        write_whole(_tensors(checkpoint, callback), written)
    digest = hashlib.sha256(written).hexdigest() if tensors else None
    said = {"step": step, "settings": _for_json(callback.settings()), "tensors": digest, "values": values}
    write_whole(marker, json.dumps(said).encode())


def read_state(callback: CarriesState, checkpoint: Path, step: int) -> dict[str, Any]:
    """What `write_state` wrote.

    Raises:
        GraspError: There is none, or it is damaged, of another step, or made with other settings.
    """
    name = type(callback).__name__
    try:
        state, of_step, settings = _read(callback, checkpoint)
    except FileNotFoundError:
        raise CannotGoOn(_nothing_there(callback, checkpoint)) from None
    except _DAMAGED as error:
        raise CannotGoOn(
            f"the state of {name} in {checkpoint} is damaged ({error}): resume from an earlier checkpoint, "
            "or train from the start"
        ) from None
    if of_step != step:
        raise CannotGoOn(f"training resumes at step {step}, and {checkpoint} holds {name} at step {of_step}")
    check_settings(settings, callback.settings(), f"the state of {name} in {checkpoint}")
    return state


def _read(callback: CarriesState, checkpoint: Path) -> tuple[dict[str, Any], Any, Any]:
    """The state, its step, and the settings that it was made with."""
    said = json.loads(_marker(checkpoint, callback).read_bytes())
    values, of_step, digest, settings = (said[k] for k in ("values", "step", "tensors", "settings"))
    written = b"" if digest is None else _tensors(checkpoint, callback).read_bytes()
    hashed = None if digest is None else hashlib.sha256(written).hexdigest()
    if not isinstance(values, Mapping) or hashed != digest:
        raise ValueError("its tensors are others")
    return {**values, **(load(written) if digest is not None else {})}, of_step, settings


_DAMAGED = (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError)


def check_settings(saved: Any, now: Mapping[str, Any], what: str) -> None:
    """A training goes on with the settings that it began with.

    Raises:
        GraspError: One differs; the message names it.
    """
    now = _for_json(now)
    before = saved if isinstance(saved, Mapping) else {}
    missing = object()
    for key in sorted({*before, *now}):
        if before.get(key, missing) != now.get(key, missing):
            raise CannotGoOn(
                f"{what} was made with {_difference(key, before.get(key), now.get(key))}: "
                "resume with the settings that it began with, or train from the start"
            )


def _for_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return found


def _difference(key: str, was: Any, now: Any) -> str:
    """In words; what is too long to show, as a hash is, shows nothing."""
    short = len(str(was)) <= 60 and len(str(now)) <= 60
    return f"{key} {was}, not {now}" if short else f"another {key}"


def misfit(callback: CarriesState, error: Exception) -> CannotGoOn:
    """What to raise where a state does not fit this training."""
    return CannotGoOn(
        f"the checkpoint's state of {type(callback).__name__} does not fit this training ({plain(error)}): "
        "resume with the adapter that it was saved with, or train from the start"
    )


def plain(error: Exception) -> str:
    """What it says; a KeyError says only the key."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _nothing_there(callback: CarriesState, checkpoint: Path) -> str:
    name = type(callback).__name__
    if not checkpoint.is_dir():
        return (
            f"training resumes, and {checkpoint} is not there: set `checkpoint` of the {name} to the folder "
            "that it resumes from"
        )
    found = checkpoint.parent.glob(f"{CHECKPOINT}*")
    others = [path.name for path in found if _is_there(callback, path)]
    newest = max(others, key=lambda one: (len(one), one), default=None)
    there = f"resume from {newest}, which has it" if newest else "train from the start"
    return (
        f"{checkpoint} holds no state of {name}, which would begin anew: it was saved without it, or the "
        f"process ended while it was saved; {there}"
    )


def _is_there(callback: CarriesState, checkpoint: Path) -> bool:
    try:
        _read(callback, checkpoint)
    except _DAMAGED:
        return False
    return True


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _marker(checkpoint: Path, callback: CarriesState) -> Path:
    return checkpoint / STATE_FOLDER / f"{type(callback).__name__}.json"


def _tensors(checkpoint: Path, callback: CarriesState) -> Path:
    return checkpoint / STATE_FOLDER / f"{type(callback).__name__}.safetensors"
