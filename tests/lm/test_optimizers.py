"""Optimizers and schedules are the Trainer's own, and only what the method can follow is learned with."""

import math
import sys
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from tests.control.test_callback import EXAMPLES, MICRO_DEV, TOKENIZER, adapted
from tests.helpers.run import write_setting
from transformers import TrainerCallback
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.control.settings import Control
from grasp_lora.errors import GraspError
from grasp_lora.experiment import run
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.optimizers import BY_ENTRY, Optimizer, Scheduler
from grasp_lora.lm.saving import SaveOften, Saving, newest_checkpoint
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work
from grasp_lora.workspace.training import enough_steps

ROWS = [encode(example, TOKENIZER, Limits(40, 8)) for example in EXAMPLES]
OF_TORCH = ("adamw_torch", "adamw_torch_fused", "adafactor", "adagrad", "rmsprop", "sgd")


class Rates(TrainerCallback):
    """The rate of each step."""

    def __init__(self):
        self.seen = []

    def on_step_begin(self, args, state, control, optimizer, **_):
        self.seen.append(optimizer.param_groups[0]["lr"])


def trained(folder, *callbacks, **settings):
    """Through our Trainer, on rows of which three steps are an epoch."""
    training = Training(**{"max_steps": 6, "batch_size": 2, "learning_rate": 1e-2} | settings)
    trainer = build_trainer(adapted(), TOKENIZER, ROWS, training, 42, folder, "")
    for callback in callbacks:
        trainer.add_callback(callback(trainer) if callable(callback) else callback)
    checkpoint = newest_checkpoint(folder / "checkpoints")
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [1, 1, 1, 0.85, 0.85, 0.85]),
        ({"lr_scheduler": "linear"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"lr_scheduler": "linear", "warmup": 2}, [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
        ({"lr_scheduler": "linear", "warmup": 1 / 3}, [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
        ({"lr_scheduler": "cosine"}, [(1 + math.cos(math.pi * n / 6)) / 2 for n in range(6)]),
        ({"lr_scheduler": "constant"}, [1] * 6),
        ({"lr_scheduler": "constant_with_warmup", "warmup": 4}, [0, 1 / 4, 2 / 4, 3 / 4, 1, 1]),
    ],
)
def test_each_steps_rate(tmp_path, settings, rates):
    trained(tmp_path, seen := Rates(), **settings)
    assert seen.seen == pytest.approx([rate * 1e-2 for rate in rates])


def test_names_are_the_trainers():
    assert set(get_args(Optimizer)) <= {name.value for name in OptimizerNames}
    assert set(get_args(Scheduler)) <= {name.value for name in SchedulerType}
    assert set(BY_ENTRY) <= set(get_args(Optimizer))


@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_every_schedule_needs_no_more_than_its_name(tmp_path, scheduler):
    assert trained(tmp_path, lr_scheduler=scheduler).state.global_step == 6


@pytest.mark.parametrize("optimizer", OF_TORCH)
def test_weight_decay_reaches_every_factor(tmp_path, optimizer):
    training = Training(optimizer=optimizer, weight_decay=0.1)
    model = adapted()
    groups = build_trainer(model, TOKENIZER, ROWS, training, 42, tmp_path, "").optimizer.param_groups
    decays = {id(one): group["weight_decay"] for group in groups for one in group["params"]}
    assert decays == {id(one): 0.1 for one in model.parameters() if one.requires_grad}


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor", "rmsprop"])
def test_a_training_that_resumes_ends_with_the_same_bits(tmp_path, optimizer):
    settings = {"optimizer": optimizer, "lr_scheduler": "cosine", "warmup": 2, "weight_decay": 0.1}

    class Ends(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 5:
                raise KeyboardInterrupt

    whole = trained(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "ended", SaveOften(Saving(every=2)), Ends(), **settings)
    again = trained(tmp_path / "ended", seen := Rates(), **settings)
    assert len(seen.seen) == 2  # from the checkpoint at step 4
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("optimizer", [one for one in BY_ENTRY if one in OF_TORCH])
def test_a_controller_clears_what_such_an_optimizer_remembers(tmp_path, optimizer):
    def grasp(trainer):
        return GraspCallback(trainer, MICRO_DEV, every=6, folder=tmp_path / "learn")

    trainer = trained(tmp_path, grasp, optimizer=optimizer)
    masked = trainer.callback_handler.callbacks[-1].controller.masked
    masked.commit(0.7, trainer.optimizer)
    for parameter, mask in zip(masked.parameters, masked._masks, strict=True):
        for value in trainer.optimizer.state[parameter].values():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                assert (value[~mask] == 0).all()
        assert (parameter[~mask] == 0).all()


def test_a_fixed_mask_stays_under_an_optimizer_that_sums_over_rows(tmp_path):
    mask = FixedMaskCallback(0.5)
    trained(tmp_path, mask, optimizer="adafactor")
    assert all((p[~m] == 0).all() for p, m in zip(mask.masked.parameters, mask.masked._masks, strict=True))
    assert any((p[m] != 0).any() for p, m in zip(mask.masked.parameters, mask.masked._masks, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scheduler": "linear", "lr_decay_per_epoch": 0.9}, "both set the rate"),
        ({"warmup": 3}, "name an lr_scheduler"),
        ({"lr_scheduler": "constant", "warmup": 3}, "constant_with_warmup has"),
        ({"lr_scheduler": "linear", "warmup": 2.5}, "a whole number of steps"),
        ({"lr_scheduler": "cosin"}, "'cosine'"),
        ({"optimizer": "adamw"}, "'adamw_torch'"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Training(**settings)


def test_a_schedule_is_read_back_as_it_was_written():
    training = Training(lr_scheduler="cosine", warmup=0.1)
    assert training.lr_decay_per_epoch == 1.0
    assert Training(**training.model_dump()) == training


def test_only_what_is_set_is_in_a_stages_key(tmp_path):
    def inputs(**settings):
        given = {"training": Training(**settings)}
        return RunDirectory(tmp_path, Resources()).inputs(Stage("a", Work(print), given))

    known = {"epochs", "max_steps", "batch_size", "gradient_accumulation", "learning_rate", "patience"}
    known |= {"lr_decay_per_epoch", "weight_decay", "max_grad_norm", "average"}
    assert {key.removeprefix("training.") for key in inputs() if "order" not in key} == known
    changes = [{"optimizer": "sgd"}, {"lr_scheduler": "linear"}, {"lr_scheduler": "linear", "warmup": 1}]
    found = [inputs(), *(inputs(**one) for one in changes)]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw_bnb_8bit"])
def test_learning_is_refused_before_any_training(tmp_path, monkeypatch, optimizer):
    write_setting(tmp_path)
    if "bnb" in optimizer:  # which need not be installed for that to be said
        monkeypatch.setattr("grasp_lora.methods.ready.check_installed", print)
    with pytest.raises(GraspError, match=r"learn/seed42: the controller clears .*reset_moments: false"):
        run(tmp_path / "run.yaml", runs=str(tmp_path), methods=["grasp"],
            **{"learn.training.optimizer": optimizer})  # fmt: skip
    assert not (tmp_path / "tiny/adapters").exists()


def test_learning_that_clears_nothing_takes_any_optimizer():
    training = Training(optimizer="adafactor")
    enough_steps(
        Resources(), train=EXAMPLES, control=Control(reset_moments=False, every=2), training=training
    )
    with pytest.raises(GraspError, match="reset_moments: false"):
        enough_steps(Resources(), train=EXAMPLES, control=Control(every=2), training=training)


def test_a_package_that_is_missing_is_named_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    write_setting(tmp_path)
    with pytest.raises(GraspError, match=r"paged_adamw_8bit needs bitsandbytes: pip install bitsandbytes"):
        run(tmp_path / "run.yaml", runs=str(tmp_path), methods=["merge"],
            **{"training.optimizer": "paged_adamw_8bit"})  # fmt: skip
