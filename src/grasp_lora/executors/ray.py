"""The work of stages on a Ray cluster, whose nodes see the run's folder under one path."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from grasp_lora.errors import GraspError
from grasp_lora.executors.settings import Executor
from grasp_lora.executors.working import Manners, Order, begin, kind_of
from grasp_lora.lm.backbone import pick_device
from grasp_lora.stopping import Interrupted
from grasp_lora.workspace.claims import claimed
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.records import Done
from grasp_lora.workspace.stage import Stage, inside

__all__ = ["RayWorkers"]

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
LOST = 5  # times that a stage's worker may be lost
ANSWERS = 10.0  # seconds in which a cluster's head does
MOST = 64  # stages that wait at the cluster, or are made there, at a time
HANDED_ON = ("HF_", "GRASP_", "TRANSFORMERS_", "TOKENIZERS_", "OMP_", "MKL_")
"""Environment variables that begin so; no tokens: Ray shows what workers are given."""


class RayWorkers:
    """Ray tasks, one for each stage.

    Args:
        how: The address of the cluster, and what each stage is given of it. No address: Ray is started on
            this machine, on its loopback interface alone, and ends with the process.

    Raises:
        GraspError: Ray is not installed, or the cluster is not there.
    """

    def __init__(self, how: Executor) -> None:
        if how.address is None:  # or else Ray takes this machine's own address for a better one
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        try:
            import ray
        except ImportError:
            raise GraspError("executor: ray needs Ray: pip install 'grasp-lora[ray]'") from None
        self._ray, self._how, self._manners = ray, how, Manners(how.cores)
        self._refs: list[Any] = []
        self._lock = threading.Lock()
        self._needs: dict[str, int] = {}
        self._ended = 0
        alone = {} if how.address else {"_node_ip_address": LOOPBACK, "include_dashboard": False}
        environment = {
            key: value
            for key, value in os.environ.items()
            if key.startswith(HANDED_ON) and not key.endswith("TOKEN")
        }
        try:
            self._ours = not ray.is_initialized()
            if self._ours:
                _look_for(how.address)
                ray.init(
                    how.address or "local",
                    logging_level=logging.WARNING,
                    runtime_env={"env_vars": {**environment, "PYTHONPATH": _own_paths()}},
                    **alone,
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise GraspError(f"executor.address: no Ray cluster at {how.address!r}: {error}") from error
        if how.address is None and (ip := ray.util.get_node_ip_address()) != LOOPBACK:
            logger.warning("Ray was imported before, and listens on %s", ip)
        most = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
        if how.cores > most and how.address is None:
            raise GraspError(f"executor.threads: a stage wants {how.cores} cores, and there are {most:.0f}")
        if how.cores > most:
            logger.warning("No node of the cluster has %d cores now: stages wait for one", how.cores)
        self.jobs = how.jobs or MOST

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            self._ray.shutdown()

    def fits(self, stage: Stage, run: RunDirectory, running: Collection[Stage]) -> bool:
        """Whether it is begun now: Ray has it wait until a node has room."""
        return True

    def work(self, run: RunDirectory, stage: Stage, partial: Path, inputs: Mapping[str, Any]) -> Done:
        """Let a worker do it; where that is lost, another goes on from what it left.

        Each attempt has the work's files under a name of its own. A worker that was thought dead and comes
        back finds nothing under its name any more.

        Raises:
            GraspError: Several were lost.
            Interrupted: All were asked to end.
        """
        ray, shown = self._ray, run.resources.shown
        lost = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.LocalRayletDiedError,
            ray.exceptions.TaskCancelledError,
        )
        for _ in range(LOST):
            try:
                with claimed(partial) as folder:
                    done: Done = ray.get(self._begun(stage, Order.of(run, stage, folder, inputs)))
            except (*lost, ray.exceptions.RayTaskError) as error:
                cause = getattr(error, "cause", None)
                if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(cause, Interrupted):
                    raise cause if isinstance(cause, BaseException) else error from None
                if self._ended:
                    raise Interrupted(self._ended, "it was asked to end") from None
                shown.say(f"its worker was lost ({type(cause or error).__name__}); another one goes on")
            else:
                kind = kind_of(stage)
                self._needs[kind] = max(self._needs.get(kind, 0), done.peak_memory_bytes)
                done.cpu_joules = None  # the package's, with all that others did beside
                return done
        raise GraspError(f"{run.root / stage.name}: its worker was lost {LOST} times")

    def _begun(self, stage: Stage, order: Order) -> Any:
        task = self._task(stage)
        with self._lock:  # whoever ends all afterwards finds it
            if self._ended:
                raise Interrupted(self._ended, "it had not begun")
            self._refs = [*self._refs, ref := task.remote(os.getcwd(), self._manners, order)]
        return ref

    def end(self, number: int) -> None:
        """Ask all to end, after their steps where that is not SIGKILL."""
        with self._lock:
            self._ended = number
        for ref in self._refs:  # those that are done do not mind
            self._ray.cancel(ref, force=number == signal.SIGKILL)

    def _task(self, stage: Stage) -> Any:
        """What Ray is to run, with what it takes of a node."""
        ray, models = self._ray, [value for value in inside(stage.given) if isinstance(value, Model)]
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        elsewhere = any(node.get("GPU") for node in nodes)
        if elsewhere and any(one.dtype == "auto" and pick_device(one.device).type == "cpu" for one in models):
            raise GraspError(
                "dtype: auto is that of the machine where the command is given, which has no GPU, and the "
                "cluster's have: set dtype: bfloat16, or device: cpu"
            )
        gpus = self._how.gpus
        if gpus is None:
            gpus = 1.0 if any(one.device != "cpu" for one in models) and elsewhere else 0.0
        gpus = gpus if models else 0.0
        most = max((node.get("memory", 0.0) for node in nodes), default=0.0)
        needs = self._needs.get(kind_of(stage))
        # A process that had a GPU keeps some of its memory: it ends with the stage.
        work = ray.remote(max_calls=1)(_work) if gpus else ray.remote(_work)
        return work.options(
            name=stage.name,
            num_cpus=self._how.cores,
            num_gpus=gpus,
            memory=None if needs is None or not most else min(needs, most),
            max_retries=0,  # ours: each attempt has a folder of its own
        )


def _look_for(address: str | None) -> None:
    """Look whether anything listens at HOST:PORT, where Ray would wait for minutes.

    Raises:
        OSError: Nothing does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), ANSWERS).close()


def _own_paths() -> str:
    """What this process imports from beyond its Python's own folders."""
    own = (sys.prefix, sys.base_prefix)
    return os.pathsep.join(path for path in sys.path if path and not path.startswith(own))


def _work(place: str, manners: Manners, order: Order) -> Done:
    """On a worker."""
    os.chdir(place)  # paths in configs are relative to where the command was given
    return order.do(begin(manners))
