"""Checkpoints of a training of our own, and what goes into them beside the weights."""

from types import SimpleNamespace

import pytest
import torch
from tests.control.test_callback import EXAMPLES, TOKENIZER, adapted
from transformers import TrainerCallback, TrainerState

from grasp_lora.lm.checkpoints import CannotGoOn, write_state
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.saving import CarriesCost, CarriesLoss, SaveOften, Saving
from grasp_lora.lm.training import Training, _Log, build_trainer

AFTER = TrainerState(global_step=3)


def saved(callback, state, folder):
    """The callback, told to resume from a checkpoint with this state."""
    callback.checkpoint = folder / "checkpoint-3"
    callback.checkpoint.mkdir()
    write_state(callback, state, callback.checkpoint, AFTER.global_step)
    return callback


class Saves(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_save(self, args, state, control, **_):
        self.steps.append(state.global_step)


def test_an_epochs_last_step_is_saved_once_and_the_last_of_all_not_at_all(tmp_path):
    rows = [encode(example, TOKENIZER, Limits(40, 8)) for example in EXAMPLES]
    training = Training(max_steps=7, batch_size=2, gradient_accumulation=1)
    trainer, saves = build_trainer(adapted(), TOKENIZER, rows, training, 42, tmp_path, ""), Saves()
    for callback in (saves, SaveOften(Saving(every=1))):
        trainer.add_callback(callback)
    trainer.train()
    assert saves.steps == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_has_the_adapter_without_its_card_which_a_later_one_has(tmp_path):
    rows = [encode(example, TOKENIZER, Limits(40, 8)) for example in EXAMPLES]
    trainer = build_trainer(adapted(), TOKENIZER, rows, Training(max_steps=2), 42, tmp_path, "")
    trainer.add_callback(SaveOften(Saving(every=1)))
    trainer.train()
    (weights,) = tmp_path.glob("checkpoints/checkpoint-1/adapter_model.safetensors")
    assert (weights.parent / "adapter_config.json").exists()
    assert not (weights.parent / "README.md").exists()
    trainer.model.save_pretrained(tmp_path / "after")
    assert (tmp_path / "after/README.md").exists()


def test_a_log_is_cut_where_the_checkpoint_was(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("before\n")
    log = _Log(path)
    saved(log, log.state_dict(), tmp_path)
    path.write_text("before\nafter\n")
    log.on_train_begin(None, AFTER, None)
    assert path.read_text() == "before\n"


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


def test_a_state_that_is_written_half_leaves_no_marker_of_an_earlier_one(tmp_path):
    callback = saved(CarriesCost(), {"seconds": 1.0}, tmp_path)
    marker = callback.checkpoint / "grasp_lora/CarriesCost.json"
    assert marker.exists()
    marker.with_suffix(".safetensors").mkdir()  # a file cannot take its place
    with pytest.raises(OSError, match="directory"):
        write_state(callback, {"seconds": torch.ones(1)}, callback.checkpoint, AFTER.global_step)
    assert not marker.exists()
