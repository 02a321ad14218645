"""Whom a training reports to: the Trainer's own integrations, a run for each stage, and never in a key."""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.control.test_callback import EXAMPLES, MICRO_DEV, TOKENIZER, adapted
from tests.helpers.run import write_setting
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from grasp_lora.control.callback import GraspCallback
from grasp_lora.errors import GraspError
from grasp_lora.experiment import preview, read_config, run
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.training import Training, build_trainer

ROWS = [encode(example, TOKENIZER, Limits(40, 8)) for example in EXAMPLES]


def learned(folder, names, run_name="tiny/learn"):
    training = Training(max_steps=4, batch_size=2, learning_rate=1e-2)
    trainer = build_trainer(
        adapted(), TOKENIZER, ROWS, training, 42, folder, "", report_to=names, run_name=run_name
    )
    trainer.add_callback(GraspCallback(trainer, MICRO_DEV, every=2, folder=folder / "learn"))
    trainer.train()
    return trainer


@pytest.mark.parametrize(("names", "there"), [(None, True), (("tensorboard",), True), ((), False)])
def test_tensorboard_is_the_default_and_none_is_none(tmp_path, names, there):
    trainer = learned(tmp_path, names)
    assert any(type(one) is TensorBoardCallback for one in trainer.callback_handler.callbacks) == there
    assert (tmp_path / "tensorboard").exists() == there
    if there:
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        assert [one.step for one in events.Scalars("train/grasp/p_curr")] == [2, 4]


def test_trackio_has_a_run_for_each_stage_with_our_values(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    for stage in ("tiny/learn/seed42", "tiny/learn/seed7"):
        learned(tmp_path / stage, ("trackio",), stage)
    found = {one.name: one for one in trackio.Api().runs("huggingface")}
    assert set(found) == {"tiny/learn/seed42", "tiny/learn/seed7"}
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    logs = storage.get_logs("huggingface", "tiny/learn/seed7")
    assert len([one for one in logs if "train/grasp/p_curr" in one]) == 2
    assert not (tmp_path / "tiny/learn/seed7/tensorboard").exists()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("none", ()),
        ("wandb", ("wandb",)),
        (["mlflow", "tensorboard"], ("mlflow", "tensorboard")),
        (None, None),
    ],
)
def test_names_are_the_trainers(tmp_path, said, meant):
    write_setting(tmp_path)
    config = read_config(tmp_path / "run.yaml", {"report_to": said})
    assert config.report_to == meant
    assert set(meant or ()) <= set(INTEGRATION_TO_CALLBACK)


def test_a_name_that_nobody_has(tmp_path):
    write_setting(tmp_path)
    with pytest.raises(GraspError, match=r"report_to.*'trackio'"):
        read_config(tmp_path / "run.yaml", {"report_to": "tensorbord"})


def test_a_missing_package_is_named_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    write_setting(tmp_path)
    with pytest.raises(GraspError, match="report_to: wandb is not installed: pip install wandb"):
        run(tmp_path / "run.yaml", runs=str(tmp_path), methods=["merge"], report_to=["tensorboard", "wandb"])
    assert not (tmp_path / "tiny/adapters").exists()


def test_each_training_of_halving_ends_its_runs_before_the_next_begins(tmp_path, monkeypatch):
    seen = {"mlflow": [], "wandb": []}

    def stub(reporter):
        class Recorder(TrainerCallback):
            def on_train_begin(self, args, state, control, **_):
                seen[reporter].append(("begin", args.run_name.rpartition("/")[2]))

            def on_train_end(self, args, state, control, **_):
                if reporter == "mlflow":  # wandb's integration leaves its run open
                    seen[reporter].append(("end", args.run_name.rpartition("/")[2]))

        module = ModuleType(reporter)
        module.__spec__ = ModuleSpec(reporter, None)
        module.finish = lambda: seen[reporter].append(("end", seen[reporter][-1][1]))
        monkeypatch.setitem(sys.modules, reporter, module)
        monkeypatch.setitem(INTEGRATION_TO_CALLBACK, reporter, Recorder)

    for reporter in seen:
        stub(reporter)
    write_setting(tmp_path)
    run(tmp_path / "run.yaml", runs=str(tmp_path), methods=["halving"], seeds=[42], variants={},
        report_to=[*seen], halving={"candidates": [0.0, 0.5], "rungs": [0.25], "rows": [2]},
        evaluation={"generate": 0, "metrics": [], "deployment": False})  # fmt: skip
    for events in seen.values():
        assert {"p0.00", "p0.50"} <= {name for _, name in events}
        assert [what for what, _ in events] == ["begin", "end"] * (len(events) // 2)
        assert [name for _, name in events[::2]] == [name for _, name in events[1::2]]


@pytest.mark.slow
def test_it_is_in_no_stages_key_and_each_stage_has_its_own_files(tmp_path):
    write_setting(tmp_path)
    small = {"runs": str(tmp_path), "methods": ["merge"], "seeds": [42], "variants": {}}
    run(tmp_path / "run.yaml", report_to="none", **small)
    assert not list(tmp_path.rglob("events.out.*"))
    overrides = {**small, "report_to": "tensorboard"}
    assert {one.state for one in preview([tmp_path / "run.yaml"], overrides)} == {"done"}
