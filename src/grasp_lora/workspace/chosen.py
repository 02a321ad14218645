"""What an earlier stage chose: a ratio, a learning rate, a number of epochs."""

from pathlib import Path

from grasp_lora.lm.training import Training
from grasp_lora.ratios import PruneRatio
from grasp_lora.workspace.records import DevLosses, LearnedRatio
from grasp_lora.workspace.stage import Stage

__all__ = ["as_chosen", "found_by"]


def as_chosen(training: Training, folder: Path) -> Training:
    """With the number of epochs that was best there, and the learning rate where one was chosen."""
    training = training.ended_after(DevLosses.read(folder).best_epoch)
    rate = None
    if (folder / LearnedRatio.FILE).exists():
        rate = LearnedRatio.read(folder).learning_rate
    return training if rate is None else training.model_copy(update={"learning_rate": rate})


def found_by(at: PruneRatio | Stage | Path) -> PruneRatio:
    """The ratio or threshold, or the one that the stage in the folder found."""
    assert not isinstance(at, Stage), "stages arrive as folders"
    return LearnedRatio.read(at).found if isinstance(at, Path) else at
