"""SLURM scripts run as they stand where `srun` runs what it is given; the manifest mounts what it claims."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from tests.executors.alone import ONE_CLUSTER
from tests.helpers.run import write_setting
from tests.soak import CONFIG

from grasp_lora.cli.main import build_parser
from grasp_lora.experiment import read_config

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted((EXAMPLES / "slurm").glob("*.sbatch"))
SMALL = re.sub(r"methods: .*", "methods: [sequential]", CONFIG).replace("NAME", "run")
SCONTROL = """#!/usr/bin/env bash
case "$1" in
  show) echo 127.0.0.1 ;;
  requeue) echo "$2" > requeued ;;
esac
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with an environment to activate, on a machine where SLURM's commands are these."""
    write_setting(tmp_path, SMALL)
    commands = tmp_path / ".venv/bin"
    commands.mkdir(parents=True)
    (commands / "activate").write_text(f'PATH="{commands}:{Path(sys.executable).parent}:$PATH"\n')
    for name, text in {
        "srun": '#!/usr/bin/env bash\n[[ "$1" != --* ]] || shift\nexec "$@"\n',
        "scontrol": SCONTROL,
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    for name, value in {
        "JOB_ID": "7",
        "JOB_NODELIST": "one",
        "JOB_NUM_NODES": "1",
        "CPUS_PER_TASK": "8",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return tmp_path


def sbatch(script, folder, *arguments):
    return subprocess.run(
        ["bash", script, "run.yaml", *arguments], cwd=folder, capture_output=True, text=True, env=os.environ
    )


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_makes_the_run(script, slurm, monkeypatch):
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "240")  # beside other tests
    if script.stem == "several_nodes":
        pytest.importorskip("ray")
    with FileLock(ONE_CLUSTER):
        done = sbatch(script, slurm)
    assert done.returncode == 0, done.stderr
    assert "Everything is in runs/run/" in done.stdout
    assert (slurm / "runs/run/report/summary.md").exists()


def test_a_job_that_was_told_to_end_is_queued_again(slurm):
    for code in (0, 2, 143):
        (slurm / ".venv/bin/srun").write_text(f"#!/usr/bin/env bash\nexit {code}\n")
        assert sbatch(EXAMPLES / "slurm/one_node.sbatch", slurm).returncode == code
        assert (slurm / "requeued").exists() == (code == 143)


@pytest.mark.parametrize("path", [*SCRIPTS, EXAMPLES / "kuberay/rayjob.yaml"], ids=lambda path: path.stem)
def test_the_commands_are_ours(path, slurm, monkeypatch):
    monkeypatch.chdir(slurm)
    (command,) = re.findall(r"grasp (run .*?)(?: \|\||\n)", path.read_text() + "\n")
    words = command.replace('"$@"', "run.yaml").replace("titles.yaml questions.yaml", "run.yaml").split()
    arguments = build_parser().parse_args(words)
    executor = read_config(arguments.config, arguments.overrides).executor
    assert executor.threads == 8
    assert (executor.where, executor.jobs) == (("local", 4) if path.stem == "one_node" else ("ray", None))


def test_the_manifest_mounts_what_it_claims():
    job = yaml.safe_load((EXAMPLES / "kuberay/rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    pins = (EXAMPLES.parent / "constraints.txt").read_text()
    assert f"\nray=={cluster['rayVersion']}\n" in pins
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/shared"}
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert len({group["template"]["spec"]["containers"][0]["image"] for group in groups}) == 1
    assert job["spec"]["entrypoint"].startswith("cd /shared && ")
    (worker,) = cluster["workerGroupSpecs"]
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
