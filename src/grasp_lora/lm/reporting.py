"""Where a training's numbers go beside its own log: the Trainer's integrations, by its names."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator
from transformers import Trainer, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from grasp_lora.errors import GraspError
from grasp_lora.lm.logs import TENSORBOARD_FOLDER

__all__ = ["ReportTo", "check_reporters", "ends_its_runs", "report", "reporters_of_the_trainer"]

TENSORBOARD = "tensorboard"
Reporter = Literal["tensorboard", "mlflow", "trackio", "wandb"]


def _listed(value: Any) -> Any:
    """A name alone, or none."""
    if isinstance(value, str):
        return () if value == "none" else (value,)
    return value


ReportTo = Annotated[tuple[Reporter, ...] | None, BeforeValidator(_listed)]


def check_reporters(names: Sequence[str] | None) -> None:
    """Each is a package of its own.

    Raises:
        GraspError: One is not installed.
    """
    for name in names or ():
        if find_spec(name) is None:
            raise GraspError(
                f"report_to: {name} is not installed: pip install {name}, or leave it out; report_to: none "
                "reports to nobody"
            )


def reporters_of_the_trainer(names: Sequence[str] | None) -> list[str]:
    """Those that the Trainer adds itself: TensorBoard's files go into the stage's folder."""
    return [name for name in names or () if name != TENSORBOARD]


def report(trainer: Trainer, names: Sequence[str] | None, folder: Path, from_step: int) -> None:
    """Add what the Trainer does not by itself.

    Args:
        names: None: TensorBoard, where it is installed.
        from_step: Of the checkpoint that it will resume from: what TensorBoard has beyond it is hidden.
    """
    if TENSORBOARD in names if names is not None else find_spec(TENSORBOARD) is not None:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        writer = SummaryWriter(
            str(folder / TENSORBOARD_FOLDER), purge_step=from_step + 1 if from_step else None
        )
        trainer.add_callback(TensorBoardCallback(writer))
    if "wandb" in (names or ()):
        trainer.add_callback(_EndsItsRun())


@contextmanager
def ends_its_runs(trainer: Trainer) -> Iterator[None]:
    """End what was begun for a training that an exception ends, too: else the next would report to it."""
    try:
        yield
    except BaseException:
        # Not wandb's own, which would upload a model.
        own = {INTEGRATION_TO_CALLBACK[name] for name in get_args(Reporter) if name != "wandb"}
        for one in trainer.callback_handler.callbacks:
            if type(one) in {_EndsItsRun, *own}:
                one.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
        raise


class _EndsItsRun(TrainerCallback):
    """The next stage of a process has a run of its own, which the other integrations see to themselves."""

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            sys.modules["wandb"].finish()
