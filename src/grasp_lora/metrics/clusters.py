"""Examples that share something, such as a passage: one cluster, which is drawn and swapped whole."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from grasp_lora.errors import GraspError

__all__ = ["clusters", "numbered", "summed", "sums"]


def clusters(groups: Sequence[str], examples: int) -> int:
    """How many clusters the first so many examples are."""
    return int(numbered(groups[:examples], examples).max(initial=-1)) + 1


def numbered(groups: Sequence[str], examples: int) -> "np.ndarray[Any, Any]":
    """Each example's cluster, numbered from 0 on in their order."""
    if groups and len(groups) != examples:
        raise GraspError(f"significance: {examples} examples, but {len(groups)} groups")
    numbers: dict[Any, int] = {}
    keys = [group or index for index, group in enumerate(groups or [""] * examples)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=int)


def summed(values: Any, numbers: Any, axis: int = 0) -> Any:
    """The values' sums over each cluster, along an axis of examples."""
    first = np.moveaxis(values, axis, 0)
    sums = np.zeros((int(numbers.max(initial=-1)) + 1, *first.shape[1:]), first.dtype)
    np.add.at(sums, numbers, first)
    return np.moveaxis(sums, 0, axis)


def sums(first: Sequence[float], second: Sequence[float], groups: Sequence[str]) -> tuple[Any, Any, Any]:
    """Sums of both over each cluster, and its size."""
    if len(first) != len(second):
        raise GraspError(f"significance: {len(first)} and {len(second)} examples: score the same ones")
    numbers = numbered(groups, len(first))
    values = (np.asarray(first, float), np.asarray(second, float), np.ones(len(first)))
    one, other, sizes = (summed(value, numbers) for value in values)
    return one, other, sizes
