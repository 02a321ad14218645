"""Names of what a training leaves beside its adapter; apart, so that who only reads them needs no torch."""

__all__ = ["CHECKPOINT", "CHECKPOINTS_FOLDER", "TENSORBOARD_FOLDER", "TRAIN_LOG_FILE", "WHOLE_FILE"]

TRAIN_LOG_FILE = "train_log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
CHECKPOINTS_FOLDER = "checkpoints"  # there only until the training has ended
CHECKPOINT = "checkpoint-"  # and the step: what a Trainer calls the folder
WHOLE_FILE = "whole.json"  # the hash of each file of a checkpoint, written last
