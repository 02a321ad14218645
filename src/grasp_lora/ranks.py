"""The processes of a data-parallel training: which one this is, and what they agree on."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from grasp_lora.errors import GraspError

__all__ = ["gathered", "is_first", "largest", "launched", "meet", "rank", "shared", "summed", "told", "world"]

_WHERE = ("RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(days=30)  # of who waits for the first process's word; one that is lost is noticed


def launched() -> int:
    """How many processes torchrun or accelerate launch has started; 1: nobody launched this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def meet() -> None:
    """Join the other processes that a launcher started, each on a GPU of its own where there are any.

    Raises:
        GraspError: Nothing says where they are, as in a container that sets WORLD_SIZE alone.
    """
    if not dist.is_initialized():
        if missing := [name for name in _WHERE if name not in os.environ]:
            raise GraspError(
                f"WORLD_SIZE says that a launcher started {launched()} processes, and {', '.join(missing)} "
                "are not set: start them by torchrun or accelerate launch, or one by WORLD_SIZE=1"
            )
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")


def rank() -> int:
    """This process's number; 0 where there is one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the one that writes."""
    return rank() == 0


def summed(values: Tensor) -> Tensor:
    """The sum of all processes' values, in place; the values where there is one process."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gathered(value: Any) -> list[Any]:
    """Every process's value, by rank."""
    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value, group=_words())
    return found


def largest(value: int) -> int:
    """The largest of all processes' values."""
    return max(int(one) for one in gathered(value))


def told(value: Any = None) -> Any:
    """The first process's value; however long it takes.

    Raises:
        RuntimeError: The first process is gone.
    """
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0, group=_words())
    return values[0]


def shared(work: Callable[[Sequence[Any]], Sequence[Any]], on: Sequence[Any]) -> list[Any]:
    """`work(on)`, of which each process does a part; it gives one thing for each in `on`, in their order."""
    parts = gathered(list(work(on[rank() :: world()])))
    found: list[Any] = [None] * len(on)
    for number, part in enumerate(parts):
        found[number :: world()] = part
    return found


@cache
def _words() -> Any:
    """The group for words: on processors, with patience."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)
