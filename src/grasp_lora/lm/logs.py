"""Names of what a training leaves beside its adapter; apart, so that who only reads them needs no torch."""

__all__ = ["CHECKPOINTS_FOLDER", "TENSORBOARD_FOLDER", "TRAIN_LOG_FILE"]

TRAIN_LOG_FILE = "train_log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
CHECKPOINTS_FOLDER = "checkpoints"  # there only until the training has ended
