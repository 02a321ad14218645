"""Does a Ray cluster make the same files as one process, though it loses a worker?

    python -m benchmarks cluster configs/matrix/ar.yaml configs/matrix/zh.yaml target.draws=1 ...

Runs the files by `grasp run`, one stage after the other; then by one command with `executor=ray` on a cluster
of two nodes with one core each, on this machine, where the first worker that has left a checkpoint is killed.
Prints what differs, times aside; fails where anything does.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster
from tests.executors.alone import cmdline
from tests.soak import differing, files

COMMAND = [sys.executable, "-m", "grasp_lora.cli.main", "run"]
ALONE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def main() -> None:
    """Compare, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("given", nargs="+", help="config files and overrides, as for grasp run")
    given = parser.parse_args().given
    os.environ |= ALONE | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}  # the nodes', too
    with tempfile.TemporaryDirectory() as folder:
        one, several = Path(folder) / "one", Path(folder) / "several"
        start = time.monotonic()
        subprocess.run([*COMMAND, *given, f"runs={one}"], check=True)
        print(f"one after the other: {time.monotonic() - start:.0f} s", flush=True)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1)
            where = f"executor={{where: ray, address: '{cluster.address}'}}"
            start = time.monotonic()
            process = subprocess.Popen([*COMMAND, *given, f"runs={several}", where])
            print("killed:", _kill_a_worker(process, several), flush=True)
            if process.wait():
                raise SystemExit("the run on the cluster failed")
        finally:
            cluster.shutdown()
        print(f"on the cluster: {time.monotonic() - start:.0f} s", flush=True)
        count, wrong = 0, list[str]()
        for run in sorted(one.iterdir()):
            expected = files(run)
            count += len(expected)
            wrong += [f"{run.name}/{name}" for name in differing(expected, files(several / run.name))]
        print(f"{count} files, of which differ: {', '.join(wrong) or 'none'}")
        raise SystemExit(bool(wrong))


def _kill_a_worker(process: "subprocess.Popen[bytes]", runs: Path) -> str:
    """The stage whose worker was killed, after its first checkpoint."""
    while process.poll() is None:
        begun = {
            part.removesuffix(".partial")
            for marker in runs.rglob("checkpoints/*/whole.json")
            for part in marker.relative_to(runs).parts
        }
        for worker in psutil.process_iter():
            said = cmdline(worker).split()
            if said and said[0].startswith("ray::") and said[0].split("/")[-1] in begun:
                worker.kill()
                return str(said[0].removeprefix("ray::"))
        time.sleep(0.05)
    raise SystemExit(f"the run ended with {process.returncode} before any worker left a checkpoint")


if __name__ == "__main__":
    main()
