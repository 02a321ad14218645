"""Run a plan here, one job after the other."""

from collections.abc import Sequence

from grasp_lora.plan import Job

__all__ = ["execute"]


def execute(jobs: Sequence[Job]) -> None:
    """Run every job once, in the order given.

    Raises:
        ValueError: A job needs one that does not come before it.
    """
    done: set[str] = set()
    for job in jobs:
        if missing := set(job.needs) - done:
            raise ValueError(f"job {job.name} needs {sorted(missing)}, which do not come before it")
        job.run()
        done.add(job.name)
