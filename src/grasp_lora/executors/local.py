"""Run a plan here, one job after the other."""

from collections.abc import Sequence
from graphlib import TopologicalSorter

from grasp_lora.plan import Job

__all__ = ["execute"]


def execute(jobs: Sequence[Job]) -> None:
    """Run every job once, each after those it needs; otherwise in the order given.

    Raises:
        KeyError: A job needs one that is not there.
    """
    by_name = {job.name: job for job in jobs}
    order = TopologicalSorter({job.name: [by_name[name].name for name in job.needs] for job in jobs})
    for name in order.static_order():
        by_name[name].run()
