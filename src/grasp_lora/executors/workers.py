"""Processes on this machine that do the work of stages."""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import torch

from grasp_lora.errors import GraspError
from grasp_lora.executors.working import Manners, Order, begin, kind_of
from grasp_lora.stopping import Interrupted
from grasp_lora.workspace.claims import claimed
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.records import Done
from grasp_lora.workspace.sizes import Sizes
from grasp_lora.workspace.stage import Stage, behind

__all__ = ["Workers"]

LOST = 3  # times that a stage's process may be lost


class Workers:
    """So many processes, each with a backbone of its own.

    Args:
        jobs: How many.
        threads: Of the processor, for each.
    """

    def __init__(self, jobs: int, threads: int) -> None:
        self.jobs = jobs
        self._all = [_Worker(number, threads) for number in range(jobs)]
        self._lock = threading.Lock()
        self._ended = 0
        self._free = psutil.virtual_memory().available, _free_on_a_gpu()
        self._gpus = max(1, torch.cuda.device_count())
        self._told = set[str]()
        self._needs: dict[str, tuple[int, int]] = {}  # bytes of the machine, and of a GPU

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._all:
            worker.close(at_once=error is not None)

    def fits(self, stage: Stage, run: RunDirectory, running: Collection[Stage]) -> bool:
        """Whether memory is enough for all; one alone is always begun."""
        needs = [self._memory(stage, run), *(self._needs.get(kind_of(one), (0, 0)) for one in running)]
        on_one_gpu = math.ceil(len(needs) / self._gpus)
        host, gpu = sum(one[0] for one in needs), max(one[1] for one in needs) * on_one_gpu
        return not running or (host <= self._free[0] and gpu <= self._free[1])

    def work(self, run: RunDirectory, stage: Stage, partial: Path, inputs: Mapping[str, Any]) -> Done:
        """Let a process do the work; where it is lost, another goes on from what it left.

        Raises:
            GraspError: Several were lost.
            Interrupted: All were asked to end.
        """
        worker = self._idle()
        try:
            for _ in range(LOST):
                try:
                    with claimed(partial) as folder:  # an orphan of an earlier command may still write
                        done = worker.do(Order.of(run, stage, folder, inputs), lambda: self._ended)
                except (BrokenProcessPool, Interrupted):
                    if self._ended:
                        raise Interrupted(self._ended, "it was asked to end") from None
                    run.resources.shown.say("its process was lost; another one goes on")
                else:
                    return self._seen(stage, done)
        finally:
            worker.busy = False
        raise GraspError(
            f"{run.root / stage.name}: its process was lost {LOST} times, as where the system wants memory "
            "back: set executor.jobs to fewer"
        )

    def end(self, number: int) -> None:
        """Have those that are at work end after their steps, or with SIGKILL at once."""
        self._ended = number
        for worker in self._all:
            worker.signal(number)

    def _idle(self) -> "_Worker":
        """One on the GPU that has the fewest at work: there are as many workers as stages at a time."""
        with self._lock:
            busy = [one.number % self._gpus for one in self._all if one.busy]
            idle = [one for one in self._all if not one.busy]
            found = min(idle, key=lambda one: busy.count(one.number % self._gpus))
            found.busy = True
            return found

    def _seen(self, stage: Stage, done: Done) -> Done:
        kind = kind_of(stage)
        before = self._needs.get(kind, (0, 0))
        took = (done.peak_memory_bytes, done.peak_gpu_memory_bytes)
        self._needs[kind] = (
            took if kind not in self._told else (max(before[0], took[0]), max(before[1], took[1]))
        )
        self._told.add(kind)
        done.cpu_joules = None  # the package's, with all that others did beside
        if self.jobs > self._gpus:
            done.gpu_joules = None
        return done

    def _memory(self, stage: Stage, run: RunDirectory) -> tuple[int, int]:
        """What its process needs: what such stages took at most, or by shapes; 0 where nothing tells."""
        if (kind := kind_of(stage)) not in self._needs:
            host, gpu = Sizes(run, behind(stage)).memory([stage])
            self._needs[kind] = host or 0, gpu
        return self._needs[kind]


class _Worker:
    """One process at a time: a new one where it was lost."""

    def __init__(self, number: int, threads: int) -> None:
        self.number, self.busy = number, False
        self._manners = Manners(threads)
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def do(self, order: Order, ended: Callable[[], int]) -> Done:
        """Raises:
        BrokenProcessPool: The process was lost.
        Interrupted: It was asked to end, before or within the work.
        """
        with self._lock:  # whoever signals afterwards finds the process
            if ended():
                raise Interrupted(ended(), "it had not begun")
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    1,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_begin,
                    initargs=(_gpu(self.number), self._manners),
                )
            pool = self._pool
            future = pool.submit(_work, order)
        try:
            return future.result()
        except BrokenProcessPool:
            pool.shutdown(wait=False)
            with self._lock:
                self._pool = None
            raise

    def signal(self, number: int) -> None:
        """To its process, as SIGTERM, which one that has just begun does not take for a key of the user."""
        with self._lock:
            found = [] if self._pool is None else list(self._pool._processes or ())
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, number if number == signal.SIGKILL else signal.SIGTERM)

    def close(self, *, at_once: bool) -> None:
        """End the process, when it is idle, or at once."""
        if at_once:
            self.signal(signal.SIGKILL)
        if self._pool is not None:
            self._pool.shutdown()


def _gpu(number: int) -> str | None:
    """Which GPU a worker sees, where there are several; None: whatever there is."""
    if (count := torch.cuda.device_count()) < 2:
        return None
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return seen[number % len(seen)]


def _free_on_a_gpu() -> int:
    """Bytes of the one that has the fewest."""
    found = [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]
    return min(found, default=0)


_at_work = threading.Lock()


def _begin(gpu: str | None, manners: Manners) -> None:
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    os.setpgrp()  # Ctrl-C is for who started it, and that tells its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(manners)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        if _at_work.locked():
            os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler would: with a checkpoint
        with _at_work:
            os._exit(128 + signal.SIGTERM)  # the pool's own loop would wait for ever


def _work(order: Order) -> Done:
    with _at_work:
        return order.do(begin(Manners(torch.get_num_threads())))
