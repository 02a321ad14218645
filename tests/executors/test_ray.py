"""A Ray cluster makes what one process makes, whoever of it is lost."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
from filelock import FileLock
from tests.executors.alone import ONE_CLUSTER, cmdline
from tests.helpers.run import write_setting
from tests.helpers.waiting import wait_for
from tests.soak import CONFIG, differing, files

import grasp_lora
from grasp_lora.errors import GraspError
from grasp_lora.executors.execute import execute
from grasp_lora.executors.settings import Executor
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.resources import Resources

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FEW = re.sub(r"methods: .*", "methods: [sequential, grasp]", CONFIG).replace("NAME", "whole")


@pytest.fixture(autouse=True)
def alone():
    """On this machine: the newest cluster is what `auto` finds."""
    with FileLock(ONE_CLUSTER):
        yield


@contextmanager
def cluster(nodes=2):
    """A head that works on nothing, and so many nodes of one core."""
    os.environ |= {"RAY_raylet_start_wait_time_s": "240"}  # beside other tests
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found.workers = [found.add_node(num_cpus=1) for _ in range(nodes)]
    try:
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("ray"), FEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        grasp_lora.run("run.yaml")
    return folder


def begin(folder, name, address):
    verb = ["run", "run.yaml", f"name={name}", f"executor={{where: ray, address: '{address}'}}"]
    command = [sys.executable, "-m", "grasp_lora.cli.main", *verb]
    return subprocess.Popen(command, cwd=folder, start_new_session=True)


def at_work(stage):
    return [one for one in psutil.process_iter() if stage in cmdline(one)]


@pytest.mark.parametrize(
    "what", ["worker", *(pytest.param(what, marks=pytest.mark.rare) for what in ("node", "driver"))]
)
def test_the_files_are_those_of_one_process(whole, what):
    run = whole / "runs" / what
    with cluster() as nodes:
        process = begin(whole, what, nodes.address)
        wait_for(lambda: list(run.rglob("adapters/*.partial/*.partial/checkpoints/*/whole.json")))
        if what == "worker":
            wait_for(lambda: at_work("ray::adapters/"))[0].kill()
        if what == "node":
            nodes.remove_node(nodes.workers[0], allow_graceful=False)
            nodes.add_node(num_cpus=1)
        if what == "driver":
            process.kill()
            assert process.wait(120) == -signal.SIGKILL
            process = begin(whole, what, nodes.address)
        assert process.wait(400) == 0
    assert list(differing(files(whole / "runs/whole"), files(run))) == []
    left = [path for path in run.rglob("*") if "partial" in path.name or "claims" in path.name]
    assert left == []


def test_without_an_address_it_is_this_machine_alone(tmp_path):
    environment = {**os.environ, "HF_TOKEN": "secret", "HF_HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "tests.executors.alone", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "imported before" not in done.stderr
    assert (tmp_path / "run/a/out.txt").read_text() == f"x {tmp_path} False True"
    listening = (tmp_path / "run/a/listening.txt").read_text().split()
    assert listening
    assert set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_the_backbones_type_is_not_guessed_for_other_machines(whole, monkeypatch):
    monkeypatch.chdir(whole)
    with cluster(nodes=0) as nodes:
        nodes.add_node(num_cpus=1, num_gpus=1)
        with pytest.raises(GraspError, match="set dtype: bfloat16, or device: cpu"):
            grasp_lora.run("run.yaml", name="gpu", executor={"address": nodes.address})


def test_a_cluster_that_is_not_there(tmp_path):
    run = RunDirectory(tmp_path / "run", Resources())
    with pytest.raises(GraspError, match=r"executor.address: no Ray cluster at '127.0.0.1:1'"):
        execute([(run, [])], Executor(where="ray", address="127.0.0.1:1"))
