"""What `ratios: per_adapter` changes in the methods that look for a ratio."""

from grasp_lora.config.tree import Config
from grasp_lora.errors import GraspError
from grasp_lora.ratios import PerAdapter, PruneRatio, prunes

__all__ = ["candidates_of", "grid_of", "own_ratios"]


def own_ratios(config: Config) -> dict[str, int]:
    """How many adapters a search gives a ratio of their own, as a stage is given it; nothing of one for all.

    Raises:
        GraspError: There is only one adapter.
    """
    if config.ratios == "one":
        return {}
    if config.adapters < 2:
        raise GraspError("ratios: per_adapter is of the adapters of a merge, and there is only one")
    return {"adapters": config.adapters}


def grid_of(config: Config) -> tuple[PruneRatio, ...]:
    """The grid's points.

    Raises:
        GraspError: None is named, and it has no default for so many adapters.
    """
    if not config.grid:
        raise GraspError(
            f"ratios: per_adapter has no default grid for {config.adapters} adapters: name its points, as "
            f"grid: [{[0.0] * config.adapters}, ...]"
        )
    return config.grid


def none_and_grid(config: Config) -> tuple[PruneRatio, ...]:
    """Not to prune, and the grid's points that prune."""
    dense = PerAdapter([0.0] * config.adapters) if own_ratios(config) else 0.0
    return dense, *(p for p in grid_of(config) if prunes(p))


def candidates_of(config: Config) -> tuple[PruneRatio, ...]:
    """Whom halving begins with: those that it names, or not to prune and the grid's points."""
    return config.halving.candidates or none_and_grid(config)
