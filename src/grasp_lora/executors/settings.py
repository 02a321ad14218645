"""Where the stages of a plan are made, and how many at a time."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from grasp_lora.settings import Count, NotNegative, Settings

__all__ = ["Executor"]


class Executor(Settings):
    """Where stages are made. With as many threads each, the files are the same. `executor: ray` is short for
    `{where: ray}`.
    """

    where: Literal["local", "ray"] = "local"
    """local: on this machine; ray: on a Ray cluster, whose nodes see the run's folder under one path."""
    jobs: Count | None = None
    """Stages at a time. local: each in a process of its own, where memory allows; null: 1. ray: at most;
    null: as many as the cluster has room for."""
    threads: Count | None = None
    """Of the processor for each stage; null: the machine's, shared among the jobs; 1 on a Ray cluster."""
    address: str | None = None
    """Of the Ray cluster, such as auto; null: Ray is started here, for this machine alone."""
    gpus: NotNegative | None = None
    """ray: of a GPU, for each stage that has the backbone, such as 0.5; null: 1 where the device is one."""

    @property
    def cores(self) -> int:
        """Of the processor, that a stage takes of a cluster."""
        return self.threads or 1

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        if not isinstance(data, Mapping | Executor):
            return {"where": data}
        if isinstance(data, Mapping) and {"address", "gpus"} & {k for k, v in data.items() if v is not None}:
            return {"where": "ray", **data}
        return data

    @model_validator(mode="after")
    def _rays(self) -> "Executor":
        if self.where == "local" and (self.address is not None or self.gpus is not None):
            raise ValueError("address and gpus are of executor: {where: ray}")
        return self
