"""A launcher's processes do the work of each stage together: the first one plans and writes, all train."""

import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from grasp_lora.cost import Cost, measure
from grasp_lora.errors import GraspError
from grasp_lora.executors.working import Manners, Order, begin
from grasp_lora.ranks import gathered, is_first, launched, meet, rank, told
from grasp_lora.stopping import Interrupted
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.records import Done
from grasp_lora.workspace.stage import Stage, inside, resolve
from grasp_lora.workspace.unfinished import PARTIAL

__all__ = ["follow", "leading", "work_together"]

logger = logging.getLogger(__name__)

_at_work: list[str] = []  # the stage that all are at
_MADE, _FAILED = "made", "failed"


@contextmanager
def leading() -> Iterator[None]:
    """Within, the others `follow`; afterwards they go on by themselves, or end, where the block failed."""
    leads = launched() > 1 and is_first()
    try:
        yield
    except BaseException:
        if leads and not _at_work:
            told(_FAILED)
        raise
    if leads:
        told(_MADE)


def work_together(run: RunDirectory, stage: Stage, partial: Path, inputs: Mapping[str, Any]) -> Done:
    """`run.work(stage, partial, inputs)`, together with the others where a model works.

    Raises:
        GraspError: One of them has ended.
    """
    if not any(isinstance(value, Model) for value in inside(stage.given)):
        return run.work(stage, partial, inputs)
    told(Order.of(run, stage, partial, inputs))
    _at_work.append(stage.name)  # where it fails, the others are not to be told anything any more
    try:
        gathered(None)  # they have copied the folder
        done = run.work(stage, partial, inputs)
        costs: list[Cost] = gathered(Cost())[1:]
    except RuntimeError as error:
        if not _is_of_a_connection(error):
            raise
        raise GraspError(f"{stage.name}: another of the launcher's processes has ended: {error}") from None
    _at_work.clear()
    for cost in costs:
        done.forward_examples += cost.forward_examples
        done.backward_examples += cost.backward_examples
        done.peak_memory_bytes = max(done.peak_memory_bytes, cost.peak_memory_bytes)
        done.peak_gpu_memory_bytes = max(done.peak_gpu_memory_bytes, cost.peak_gpu_memory_bytes)
    done.gpu_joules = None  # of one GPU of several
    return done


def follow() -> None:
    """What all but the first process do: their part of each stage's work, until the first has done all.

    Raises:
        SystemExit: The first one has ended, this one's work failed, or a signal came.
    """
    if launched() == 1:
        return
    meet()
    if is_first():
        return
    try:
        while isinstance(order := told(), Order):
            with TemporaryDirectory(prefix="grasp-") as scratch, measure() as cost:
                _do(order, Path(scratch))
            gathered(cost)
        if order == _FAILED:
            sys.exit(1)
    except Interrupted as error:
        sys.exit(128 + error.signal)
    except Exception as error:
        if not _is_of_a_connection(error):  # which whoever has ended has explained
            unexpected = None if isinstance(error, GraspError) else error
            logger.error("process %d of the launcher's: %s", rank(), error, exc_info=unexpected)
        sys.exit(1)


def _do(order: Order, scratch: Path) -> None:
    """The work, in a folder of its own, which begins as what the first process goes on from."""
    folder = scratch / order.root.name / f"{order.stage.name}{PARTIAL}"
    shutil.copytree(order.folder, folder)
    gathered(None)
    resources = begin(Manners(torch.get_num_threads(), logging.ERROR))
    resources.checkpoint_every = order.checkpoint_every
    resources.shown.begin(order.stage.name)
    with resources.stopping.on_signals():
        given = resolve(order.stage.given, RunDirectory(order.root, resources))
        order.stage.work.run(resources, folder, **given)


def _is_of_a_connection(error: Exception) -> bool:
    """Whether another process of the launcher's is gone."""
    said = ("gloo", "Connection closed by peer", "Connection reset by peer")
    of_torch = isinstance(error, torch.distributed.DistError)
    return of_torch or (isinstance(error, RuntimeError) and any(one in str(error) for one in said))
