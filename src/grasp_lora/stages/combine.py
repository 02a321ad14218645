"""Baselines without training: PEFT's own combinations of adapters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from grasp_lora.merging import combine_with_peft
from grasp_lora.settings import Count, Settings
from grasp_lora.workspace.about import named
from grasp_lora.workspace.stage import Work

__all__ = ["COMBINE", "Combine"]


class Combine(Settings):
    """How PEFT's combinations weigh and prune the adapters."""

    density: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of entries that ties, dare and magnitude_prune keep."""
    weights: dict[str, float] | None = None
    """Each adapter's weight, by its name or language; null: 1 each."""
    rank: Count | None = None
    """Of the svd forms; null: the largest adapter's."""

    def of(self, method: str) -> dict[str, Any]:
        """The part that a method looks at."""
        prunes, svd = method.startswith(("ties", "dare", "magnitude")), method.endswith("svd")
        return self.model_dump(
            include={"weights", *(["density"] if prunes else []), *(["rank"] if svd else [])}
        )


def combine(
    resources: Any,
    folder: Path,
    *,
    adapters: Mapping[str, Path],
    method: str,
    seed: int,
    how: Mapping[str, Any],
) -> None:
    """Leaves a PEFT adapter; see `combine_with_peft`."""
    combine_with_peft(adapters, folder, method, seed=seed, **how)


def _about(
    folder: Path, *, adapters: Mapping[str, Any], method: str, how: Mapping[str, Any], **_: Any
) -> str:
    shown = {key: _shown(value) for key, value in how.items() if value is not None}
    settings = "".join(f", {key} {value}" for key, value in shown.items())
    return f"Combined by PEFT's {method}{settings}: {named(adapters)}."


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {one:g}" for name, one in value.items()) + ")"
    return f"{value:g}"


COMBINE = Work(combine, about=_about)
