"""A stage on a Ray that is started for it, in a process that has not imported Ray before."""

import os
import sys
import tempfile
from pathlib import Path

import psutil

from grasp_lora.executors.execute import execute
from grasp_lora.executors.settings import Executor
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work

ONE_CLUSTER = Path(tempfile.gettempdir()) / "grasp-tests-one-ray-cluster.lock"


def cmdline(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def look(resources, folder, *, text):
    """Writes where it is, what Ray shows of the environment, and where Ray's processes listen."""
    import ray

    told = str(ray.get_runtime_context().runtime_env)
    (folder / "out.txt").write_text(f"{text} {os.getcwd()} {'secret' in told} {'HF_HOME' in told}")
    listening = [
        connection.laddr.ip
        for process in psutil.process_iter()
        if any(name in cmdline(process) for name in ("raylet", "gcs_server", "ray::", "ray/_private"))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    (folder / "listening.txt").write_text("\n".join(listening))


def main(folder):
    run = RunDirectory(Path(folder), Resources())
    execute([(run, [Stage("a", Work(look), {"text": "x"})])], Executor(where="ray"))


if __name__ == "__main__":
    from tests.executors import alone  # so that workers find `look` under a name

    alone.main(sys.argv[1])
