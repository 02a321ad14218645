"""A launcher's processes train together: they make what one process makes, to rounding, once."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.run import write_setting
from tests.helpers.waiting import wait_for
from tests.soak import CONFIG, differing, files

import grasp_lora
from grasp_lora.cli.main import main
from grasp_lora.errors import GraspError
from grasp_lora.executors.execute import execute
from grasp_lora.executors.settings import Executor
from grasp_lora.lm.training import Training
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work

# A step's six rows are shared by two and by three; so are twelve source rows, and six of the target.
EVEN = CONFIG.replace("dropout: 0.1", "dropout: 0.0").replace(
    "epochs: 3,", "epochs: 3, gradient_accumulation: 6,"
)
FEW = re.sub(r"methods: .*", "methods: [joint, grasp]", EVEN).replace("accumulation: 6", "accumulation: 2")
EVEN = re.sub(r"methods: .*", "methods: [joint, merge_prune, grid, optuna, grasp]", EVEN)


def launch(folder, processes, *overrides, **how):
    verb = ["-m", "grasp_lora.cli.main", "run", "run.yaml", *overrides]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *verb]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, text=True, **how)


def ranks_of(process):
    return [one for one in psutil.Process(process.pid).children() if "grasp_lora.cli.main" in one.cmdline()]


def of(run, pattern):
    return {str(path.relative_to(run)): path for path in sorted(run.rglob(pattern))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = EVEN.replace("NAME", "whole")
    folder = write_setting(tmp_path_factory.mktemp("launched"), config)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        grasp_lora.run("run.yaml", target={"train_examples": 6})
    return folder


@pytest.mark.slow
def test_several_processes_make_what_one_makes(whole):
    assert launch(whole, 3, "name=three", "target.train_examples=6").wait(500) == 0
    one, several = whole / "runs/whole", whole / "runs/three"
    shown = [{n for n in of(run, "*") if "tfevents" not in n} for run in (one, several)]
    assert shown[0] == shown[1]
    for place, path in of(one, "adapter_model.safetensors").items():
        weights, others = load_file(path), load_file(several / place)
        for key, weight in weights.items():
            torch.testing.assert_close(others[key], weight, atol=1e-4, rtol=1e-3, msg=f"{place} {key}")
    for place, path in of(one, "rounds.jsonl").items():
        rounds = [[json.loads(line) for line in p.read_text().splitlines()] for p in (path, several / place)]
        assert rounds[0]
        for mine, other in zip(*rounds, strict=True):
            assert [probe["p"] for probe in mine["probes"]] == [probe["p"] for probe in other["probes"]]
            assert mine["p_next"] == pytest.approx(other["p_next"], abs=1e-6)
            assert mine["base_reward"] == pytest.approx(other["base_reward"], abs=1e-5)
    for place, path in of(one, "predictions.jsonl").items():
        assert path.read_text() == (several / place).read_text()
    for place, path in of(one, "done.json").items():
        costs = [json.loads(p.read_text()) for p in (path, several / place)]
        assert costs[0]["steps"] == costs[1]["steps"]
        assert costs[0]["backward_examples"] == costs[1]["backward_examples"]
        if "merge_prune" not in place:  # whose scores every process makes of all rows
            assert costs[0]["forward_examples"] == costs[1]["forward_examples"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two processes that nobody has ended, whose last batches are uneven."""
    folder = write_setting(tmp_path_factory.mktemp("two"), FEW.replace("NAME", "whole"))
    assert launch(folder, 2).wait(300) == 0
    return folder


@pytest.mark.slow
@pytest.mark.rare
@pytest.mark.parametrize("what", ["lost", "asked", "first lost"])
def test_what_was_ended_goes_on_with_as_many(two, what):
    run = two / "runs" / what.replace(" ", "-")
    process = launch(two, 2, f"name={run.name}", stderr=subprocess.PIPE)
    wait_for(lambda: list(run.rglob("adapters/*.partial/checkpoints/*/whole.json")))
    began = time.monotonic()
    ranks = sorted(ranks_of(process), key=lambda one: int(one.environ()["RANK"]))
    if what == "asked":
        process.send_signal(signal.SIGTERM)
    else:
        ranks[0 if what == "first lost" else 1].kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode
    assert time.monotonic() - began < 60
    assert not any(one.is_running() for one in ranks)
    assert "src/grasp_lora/" not in said  # in a traceback of ours; the launcher has its own
    assert not (run / "report").exists()  # its stage may have ended with it; the run has not
    assert launch(two, 2, f"name={run.name}").wait(300) == 0
    assert list(differing(files(two / "runs/whole"), files(run))) == []


def test_a_step_is_shared_by_as_many_as_divide_it():
    each = Training(batch_size=2, gradient_accumulation=3)
    assert each.each_of(1) == each
    assert each.each_of(3).gradient_accumulation == 1
    assert each.each_of(2).batch_size == 1
    with pytest.raises(GraspError, match="4 processes cannot share a step of batch_size 2 x gradient_acc"):
        each.each_of(4)
    with pytest.raises(GraspError, match="start as many as divide gradient_accumulation, with source rows"):
        each.each_of(2, pairs=True)


def test_launched_processes_make_one_stage_at_a_time(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(GraspError, match="2 processes train each stage together"):
        execute([], Executor(jobs=2))


def test_launched_processes_have_the_whole_backbone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(GraspError, match="FSDP is for GraspCallback in your own Trainer"):
        execute([])


def test_what_cannot_be_shared_is_said_before_anything_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    run = RunDirectory(tmp_path / "run", Resources())
    stage = Stage("a", Work(print), {"training": Training(gradient_accumulation=2)})
    with pytest.raises(GraspError, match="3 processes cannot share a step"):
        execute([(run, [stage])])
    assert not (tmp_path / "run").exists()


def test_other_verbs_are_not_launched(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["report", "runs/x"]) == 2
    assert "a launcher started 2 processes" in capsys.readouterr().err
