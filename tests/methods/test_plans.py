"""The plans of all shipped configs: stages, whose adapter each evaluation reads, what it costs.

`python -m tests.methods.test_plans` writes golden/plans.json anew, where a change of them is meant.
"""

import json
from pathlib import Path

import pytest

from grasp_lora.config_file import load_config
from grasp_lora.plan import plan
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.run_directory import RunDirectory

CONFIGS = Path(__file__).parents[2] / "configs"
GOLDEN = Path(__file__).parent / "golden" / "plans.json"
PATHS = sorted(p for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("_"))


def planned(path):
    """Stages by name, and for each evaluation the adapter and the stages that are its cost."""
    config = load_config(path)
    inputs = Inputs.__new__(Inputs)  # a plan needs no data
    inputs.config = config
    jobs = plan(config, inputs, RunDirectory(config.folder))
    given = {f"adapters/{side.language}" for side in (config.source, config.target) if side.adapter}
    rows = {}
    for job in jobs:
        if job.name.startswith("eval/"):
            _, _, _, adapter, _, cost = job.run.args
            inside = adapter is not None and adapter.is_relative_to(config.folder)
            shown = str(adapter.relative_to(config.folder)) if inside else adapter and str(adapter)
            rows[job.name] = [shown, *cost]
    return {"stages": sorted({job.name for job in jobs} - given - set(rows)), "evaluations": rows}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_plan_of_a_shipped_config(path):
    assert planned(path) == json.loads(GOLDEN.read_text())[path.relative_to(CONFIGS).as_posix()]


def test_every_config_has_its_plan():
    assert set(json.loads(GOLDEN.read_text())) == {p.relative_to(CONFIGS).as_posix() for p in PATHS}


if __name__ == "__main__":
    plans = {path.relative_to(CONFIGS).as_posix(): planned(path) for path in PATHS}
    lines = [f" {json.dumps(name)}: {json.dumps(made)}" for name, made in plans.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
