"""Memory that is short is said before anything is trained, with the setting that would save most."""

import logging
from dataclasses import replace

import pytest
from tests.helpers.run import CONFIG, write_setting

from grasp_lora import experiment
from grasp_lora.errors import GraspError
from grasp_lora.experiment import read_config, start
from grasp_lora.workspace import room
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.room import HOW, warn_of_memory
from grasp_lora.workspace.sizes import Sizes

SMALL = CONFIG[: CONFIG.index("methods:")] + "methods: [grasp]\nmax_length: 40\nmax_new_tokens: 6\n"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return write_setting(tmp_path_factory.mktemp("setting"), SMALL)


def plans(setting, **overrides):
    config = read_config(setting / "run.yaml", {"runs": str(setting / "runs"), **overrides})
    return experiment._plans([start(config)], force=False)


def said(caplog, setting, **overrides):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_memory(plans(setting, **overrides))
    return [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]


def test_nothing_is_said_where_there_is_room(caplog, setting):
    assert said(caplog, setting) == []


def test_one_line_says_what_is_needed_and_what_would_need_less(caplog, setting, monkeypatch):
    monkeypatch.setattr(room, "_free", lambda gpu: 2e8)  # less than this process has
    (line,) = said(caplog, setting)
    assert line.startswith("memory may not be enough: about ")
    assert "0.2 GB of this machine are free; dtype: bfloat16 would need about" in line
    (line,) = said(caplog, setting, **{"training.batch_size": 8})
    assert "half of training.batch_size, with twice gradient_accumulation, would need about" in line
    (line,) = said(caplog, setting, **{"training.batch_size": 8, "dtype": "float16"})
    assert "half of training.batch_size" in line


def test_a_run_says_it_before_it_begins(caplog, setting, monkeypatch):
    def begun(*_):
        raise GraspError("begun")

    monkeypatch.setattr(room, "_free", lambda gpu: 0)
    monkeypatch.setattr(experiment, "execute", begun)
    with caplog.at_level(logging.WARNING), pytest.raises(GraspError, match="begun"):
        experiment.run(setting / "run.yaml", runs=str(setting / "other"))
    assert sum("memory may not be enough" in record.getMessage() for record in caplog.records) == 1


def test_each_setting_that_is_named_lowers_the_need(setting):
    ((run, stages),) = plans(setting, **{"training.batch_size": 8, "token_budget": 100, "max_length": 20})
    working = [stage for stage in stages if isinstance(stage.given.get("model"), Model)]
    sizes = Sizes(run, working)
    whole = sizes.memory(working)[0]
    named = sizes.settings_to_lower(working)
    assert {"training.batch_size", "max_length", "dtype"} <= {*named} <= {*HOW}
    for name in ("training.batch_size", "max_length", "dtype"):
        assert sizes.memory(working, name)[0] < whole, name
    evaluated = [stage for stage in working if "training" not in stage.given]
    assert sizes.memory(evaluated, "token_budget")[0] < sizes.memory(evaluated)[0]
    bits = replace(sizes._shapes, quantization="nf4").weights
    assert sizes.memory(working, "quantization")[0] == whole - sizes._shapes.weights + bits
    sizes._shapes = replace(sizes._shapes, each=2)
    assert "dtype" not in sizes.settings_to_lower(working)
    ((_, stages),) = plans(setting, **{"training.batch_size": 1})
    assert "training.batch_size" not in sizes.settings_to_lower(stages)


def of_training(setting, *, beside=False, lighter=None, **training):
    """What the target's training takes beside the process, where it has rows beside as many of its own."""
    ((run, stages),) = plans(setting, **{f"training.{key}": value for key, value in training.items()})
    stage = next(one for one in stages if one.name == "adapters/ar")
    if beside:
        stage = replace(stage, given={**stage.given, "beside": stage.given["train"]})
    sizes = Sizes(run, [stage])
    return sum(sizes.memory([stage], lighter)) - sum(sizes.memory([]))


def test_gradient_checkpointing_counts_where_it_is_set(setting):
    plain, on = (of_training(setting, batch_size=8, gradient_checkpointing=on) for on in (False, True))
    assert on == of_training(setting, batch_size=8, lighter="training.gradient_checkpointing") < plain


def test_rows_beside_are_as_many_again(setting):
    beside = of_training(setting, batch_size=4, beside=True)
    assert of_training(setting, batch_size=4) < beside == of_training(setting, batch_size=8)
