"""A config's settings reach the stages that they are for."""

from pathlib import Path

import pytest
from tests.helpers.run import SVD

from grasp_lora.config.tree import Config
from grasp_lora.errors import GraspError
from grasp_lora.methods.plan import NAMES, plan
from grasp_lora.methods.start import Start
from grasp_lora.methods.steps import fixed_runs
from grasp_lora.tasks.task import Task
from grasp_lora.workspace.inputs import Encoder

VALUES = {
    "name": "x",
    "backbone": "some/model",
    "device": "cpu",
    "revision": "v2",
    "task": "any",
    "source": {"language": "en", "train_examples": 11, "dev_examples": 5, "training": {"epochs": 3}},
    "target": {
        "language": "ar",
        "train_examples": 7,
        "dev_examples": 4,
        "seed": 9,
        "training": {"epochs": 4},
    },
    "learn": {"training": {"epochs": 5}},
    "final": {"training": {"epochs": 6}},
    "control": {"unit": "tensor", "micro_dev": 3},
    "methods": "all",
    "combine": {"density": 0.3, "rank": 5},
    "grid": [0.2, 0.4],
    "lorahub": {"budget": 5, "bound": 2.0, "penalty": 0.1, "exact": True},
    "evaluation": {
        "test_examples": 8,
        "generate": 2,
        "metrics": ["bertscore_f1"],
        "bertscore": {"encoder": "some/encoder", "layer": 3, "rescale": True},
        "deployment": True,
    },
    "max_length": 50,
    "token_budget": 123,
    "seed": 1,
    "seeds": [1, 2],
}


def started(**changes) -> Start:
    config = Config.model_validate({**VALUES, **changes}, context=NAMES)
    languages = {language: {"train": Path("x")} for language in ("en", "ar")}
    task = Task(
        name="any", prompt="{text}", target="title", languages=languages, max_new_tokens={"en": 5, "ar": 6}
    )
    return Start(config, task)


@pytest.fixture(scope="module")
def stages():
    return {stage.name: stage.given for stage in plan(started())}


def test_rows(stages):
    def rows(stage, key):
        found = stages[stage][key]
        return found.language, found.split, found.limit

    assert rows("adapters/en", "train") == ("en", "train", 11)
    assert rows("adapters/en", "dev") == ("en", "dev", 5)
    assert rows("adapters/ar", "train") == rows("final/seed2", "train") == ("ar", "train", 7)
    assert rows("final/seed2", "dev") == rows("eval/grasp/seed2", "dev") == ("ar", "dev", 4)
    assert rows("learn/seed1", "micro_dev") == ("ar", "micro_dev", 3)
    assert stages["learn/seed1"]["micro_dev"].at_least == 3
    assert rows("eval/grasp/seed1", "test") == ("ar", "test", 8)
    assert rows("deployment/grasp/seed1", "examples") == ("ar", "test", 2)


def test_training_and_seeds(stages):
    epochs = {name: given["training"].epochs for name, given in stages.items() if "training" in given}
    assert (epochs["adapters/en"], epochs["adapters/ar"]) == (3, 4)
    assert {epochs[name] for name in ("learn/seed1", "learn/random-seed1", "learn/rank_check-seed1")} == {5}
    finals = (
        "final/seed2",
        "grid/p0.20-seed1",
        "grid/seed2",
        "merge/seed1",
        "sequential/seed2",
        "learn/optuna-seed1",
    )
    assert {epochs[name] for name in finals} == {6}
    assert [stages[name]["seed"] for name in ("adapters/en", "adapters/ar", "final/seed2")] == [1, 9, 2]


def test_units_of_every_fixed_mask(stages):
    masks = {name: given["mask"] for name, given in stages.items() if given.get("mask") is not None}
    fixed = {name: mask.unit for name, mask in masks.items() if hasattr(mask, "unit")}
    pruned = {name: unit for name, unit in fixed.items() if not name.startswith(("merge/", "merge_random/"))}
    assert {name.split("/")[0] for name in pruned} == {
        "grid", "learn", "optuna", "halving", "random", "final",
    }  # fmt: skip
    assert set(pruned.values()) == {"tensor"}
    assert {run.given["mask"].unit for run in fixed_runs(started(), 0.3)} == {"tensor"}


def test_limits_are_those_of_the_language(stages):
    """So that a source's adapter is the same whatever the target is."""
    for name in ("adapters/en", "final/seed1", "eval/grasp/seed1", "combined/lorahub"):
        limits = stages[name]["limits"]
        tokens = 5 if name == "adapters/en" else 6
        assert (limits.max_length, limits.max_new_tokens, limits.token_budget) == (50, tokens, 123)


def test_what_else_an_evaluation_and_a_deployment_are_given(stages):
    given = stages["eval/grasp/seed1"]
    assert given["encoder"] == Encoder("some/encoder", 3, rescale=True)
    assert given["answers"] == 2
    deployed = stages["deployment/grasp/seed1"]
    assert deployed["device"] == "cpu"
    assert deployed["after"].name == "eval/grasp/seed1"
    assert stages["final/seed1"]["model"].revision == "v2"


def test_combinations(stages):
    assert stages["combined/ties"]["how"] == {"density": 0.3, "weights": None}
    assert stages["combined/magnitude_prune"]["how"] == {"density": 0.3, "weights": None}
    if SVD == "svd":
        assert stages["combined/svd"]["how"] == {"rank": 5, "weights": None}
    hub = stages["combined/lorahub"]
    assert (hub["budget"], hub["bound"], hub["penalty"], hub["exact"]) == (5, 2.0, 0.1, True)
    assert list(hub["adapters"]) == ["en", "ar"]


def test_which_rows_were_found_by_a_grid(stages):
    found = {given["method"] for given in stages.values() if given.get("exhaustive")}
    assert found == {"grid", "merge_prune"}


def test_a_study_alone_is_refused():
    with pytest.raises(GraspError, match="rank_check is about methods: name at least one beside it"):
        plan(started(methods=["rank_check"]))
