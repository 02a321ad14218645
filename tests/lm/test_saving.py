"""Checkpoints of a training of our own, and what goes into them beside the weights."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerState

from grasp_lora.lm.checkpoints import CannotGoOn, write_state
from grasp_lora.lm.saving import CarriesCost, CarriesLoss
from grasp_lora.lm.training import _Log

AFTER = TrainerState(global_step=3)


def saved(callback, state, folder):
    """The callback, told to resume from a checkpoint with this state."""
    callback.checkpoint = folder / "checkpoint-3"
    callback.checkpoint.mkdir()
    write_state(callback, state, callback.checkpoint, AFTER.global_step)
    return callback


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (CarriesCost, {"seconds": 1.0, "days": 2}),
        (CarriesLoss, {"_tr_loss": 1.0, "_total_loss_scalar": 2.0}),
        (CarriesLoss, {"_tr_loss": None, "_total_loss_scalar": 2.0, "_globalstep_last_logged": 1}),
        (_Log, {}),
        (_Log, {"bytes": None}),
        (_Log, {"bytes": "many"}),
    ],
)
def test_a_state_that_another_version_saved_does_not_fit(tmp_path, kind, state):
    (tmp_path / "log.jsonl").write_text("before\n")
    callback = kind(tmp_path / "log.jsonl") if kind is _Log else kind()
    callback.trainer = SimpleNamespace(_tr_loss=torch.zeros(()))
    with pytest.raises(CannotGoOn, match=f"state of {kind.__name__} does not fit this training"):
        saved(callback, state, tmp_path).on_train_begin(None, AFTER, None)
