"""What several keys of a configuration must have in common."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from grasp_lora.control.selection import OF_ONE
from grasp_lora.ratios import PerAdapter

if TYPE_CHECKING:
    from grasp_lora.config.tree import Config

__all__ = ["check_names", "check_ratios"]


def check_names(config: "Config", known: Collection[str]) -> None:
    """Adapters, variants, methods and weights are told apart by names.

    Args:
        known: All methods.

    Raises:
        ValueError: Two have one name, or one has none that it may have.
    """
    labels = [side.label for side in (*config.sources, config.target)]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"two adapters are called '{twice[0]}': give one side a name")
    for side in config.sources:
        if side.adapter == "none":
            raise ValueError(f"the source '{side.label}' needs an adapter; only the target's may be none")
        if side.language == config.target.language and side.task is None and side.adapter is None:
            raise ValueError(f"source and target are both '{side.language}' of one task")
    for name in config.variants:
        if name in known or not re.fullmatch(r"\w[\w.]*", name):
            raise ValueError(f"a variant cannot be called '{name}': use letters, digits, _ and no method")
    for key in ("seeds", "methods"):
        listed = getattr(config, key)
        if twice := sorted({str(one) for one in listed if listed.count(one) > 1}):
            raise ValueError(f"{key} names {', '.join(twice)} twice")
    merged = set(labels[:-1] if config.target.adapter == "none" else labels)
    if config.combine.weights is not None and set(config.combine.weights) != merged:
        raise ValueError(f"combine.weights needs a weight for each of {sorted(merged)}")


def check_ratios(config: "Config") -> None:
    """As many ratios as adapters, and nothing that knows one ratio only where each adapter has its own.

    Raises:
        ValueError: They do not go together.
    """
    if config.final.pruning == "every_step" and config.merge_prune.unit == "module":
        raise ValueError("final.pruning: every_step prunes at a ratio, and merge_prune.unit is module")
    trained = all(side.adapter in (None, "none") for side in (*config.sources, config.target))
    lists = {"grid": config.grid, "sweep.ratios": config.sweep.ratios, "halving": config.halving.candidates}
    for name, ratios in lists.items() if trained else ():  # a given adapter may itself be of several
        for p in ratios:
            if isinstance(p, PerAdapter) and len(p) != config.adapters:
                raise ValueError(f"{name} has [{p:g}], and {config.adapters} adapters are merged")
    if config.curve.per_adapter and config.control.unit == "tensor":
        raise ValueError("control.unit: tensor does not tell adapters apart: curve.per_adapter is true")
    if config.ratios == "one":
        if not config.grid:
            raise ValueError("grid has no ratio")
        return
    if config.final.pruning == "every_step":
        raise ValueError("final.pruning: every_step takes one ratio for all, and ratios is per_adapter")
    for name, control in {"control": config.control, **config.variants}.items():
        if control.unit == "tensor":
            raise ValueError(f"{name}: unit: tensor does not tell adapters apart: ratios is per_adapter")
        if control.select in OF_ONE:
            raise ValueError(f"{name}: select: {control.select} is of one ratio, and ratios is per_adapter")
