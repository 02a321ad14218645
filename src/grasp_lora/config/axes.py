"""One file for many runs: `axes` name keys of a config, and the values that each of them goes through."""

import math
import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from grasp_lora.errors import GraspError

__all__ = ["AXES", "points"]

AXES = "axes"
DRAWS = "draws"
"""Short for target.draws, which is no axis: the draws of one run are reported together."""
MOST = 1000  # runs of one file


def points(axes: Any, where: str, only: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What the axes make: for each run what is added to the file's name, and its values by dotted key.

    Args:
        axes: Dotted key -> its values: a list, or a mapping where they are to be called something else. The
            first axis changes last. `draws: n` is `target.draws` of all.
        where: What a message calls the file.
        only: Of some axes the one value that is wanted, or its name.

    Raises:
        GraspError: They are something else, or make more than `MOST` runs, or have no such value.
    """
    if not isinstance(axes, Mapping) or not axes:
        raise GraspError(f"{where}: axes is a mapping of keys to their values, as target.language: [ar, zh]")
    fixed = {"target.draws": axes[DRAWS]} if DRAWS in axes else {}
    several = {str(key): _values(str(key), value, where) for key, value in axes.items() if key != DRAWS}
    for key, value in only.items():
        if key in several:
            several[key] = _one(key, several[key], value, where)
    if (count := math.prod(map(len, several.values()))) > MOST:
        raise GraspError(f"{where}: axes make {count} runs, and {MOST} is the most")
    found = []
    for choice in product(*(values.items() for values in several.values())):
        labels = (label for label, _ in choice)
        found.append(("-".join(labels), {**fixed, **dict(zip(several, (v for _, v in choice), strict=True))}))
    return found


def _values(key: str, values: Any, where: str) -> dict[str, Any]:
    """What each value is called in names -> the value."""
    if isinstance(values, Mapping) and values:
        return {str(label): value for label, value in values.items()}
    if not isinstance(values, list) or not values:
        raise GraspError(f"{where}: axes.{key} is a list of values, or a mapping of names to values")
    if unnamed := [value for value in values if isinstance(value, list | Mapping)]:
        raise GraspError(
            f"{where}: axes.{key}: {unnamed[0]!r} needs a name: give a mapping of names to values"
        )
    named = {re.sub(r"[^\w.]+", "-", str(value)).strip("-."): value for value in values}
    if len(named) < len(values) or "" in named:
        raise GraspError(f"{where}: axes.{key}: two of its values would have one name: give a mapping")
    return named


def _one(key: str, values: Mapping[str, Any], wanted: Any, where: str) -> dict[str, Any]:
    """The wanted one, under the name that it has in the file."""
    for label, value in values.items():
        if value == wanted or label == str(wanted):
            return {label: value}
    raise GraspError(f"{where}: axes.{key} has no {wanted!r}; it has {', '.join(values)}")
