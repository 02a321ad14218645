"""Sequences whose items are made when they are asked for: a million rows need not be in memory at once."""

import bisect
import itertools
from array import array
from collections.abc import Callable, Sequence
from typing import TypeVar, overload

__all__ = ["FEW", "Lazy", "joined", "mapped", "picked"]

T = TypeVar("T")
S = TypeVar("S")

FEW = 1000
"""So many items of a lazy sequence, or fewer, are taken out of it as a list."""


class Lazy(Sequence[T]):
    """A read-only sequence that keeps none of its items.

    Args:
        count: How many there are.
        make: The item at an index from 0 to `count` - 1, the same one each time.
    """

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return picked(self, range(*index.indices(self._count)))
        return self._make(range(self._count)[index])


def picked(items: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    """The items at some places, in the places' order."""
    if isinstance(items, list) or len(places) <= FEW:
        return [items[place] for place in places]
    kept = places if isinstance(places, range) else array("Q", places)  # 8 bytes each
    return Lazy(len(kept), lambda i: items[kept[i]])


def mapped(items: Sequence[S], change: Callable[[S], T]) -> Sequence[T]:
    """Each item as `change` makes it."""
    if isinstance(items, list):
        return [change(item) for item in items]
    return Lazy(len(items), lambda i: change(items[i]))


def joined(*several: Sequence[T]) -> Sequence[T]:
    """One sequence after the other."""
    if all(isinstance(items, list) for items in several):
        return [item for items in several for item in items]
    ends = list(itertools.accumulate(map(len, several)))

    def item(place: int) -> T:
        which = bisect.bisect_right(ends, place)
        return several[which][place - ends[which]]  # counted from that one's end

    return Lazy(ends[-1], item)
