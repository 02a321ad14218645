"""Which of a plan's stages is begun next."""

import heapq
from collections.abc import Callable, Collection, Sequence

__all__ = ["Queue"]


class Queue:
    """Numbered stages, each of which can begin when those that it needs are made; earlier ones first.

    Args:
        needs: Of each stage the numbers of those that it needs, all of them smaller than its own.
    """

    def __init__(self, needs: Sequence[Collection[int]]) -> None:
        self._missing = [len(set(own)) for own in needs]
        self._needed_by: list[list[int]] = [[] for _ in needs]
        for number, own in enumerate(needs):
            for need in set(own):
                self._needed_by[need].append(number)
        self._ready = [number for number, missing in enumerate(self._missing) if not missing]

    def take(self, fits: Callable[[int], bool]) -> int | None:
        """The first that can begin and has room; None: none has. It is not given twice."""
        passed_over: list[int] = []
        try:
            while self._ready:
                if fits(number := heapq.heappop(self._ready)):
                    return number
                passed_over.append(number)
            return None
        finally:
            for number in passed_over:
                heapq.heappush(self._ready, number)

    def made(self, number: int) -> None:
        """It is done."""
        for other in self._needed_by[number]:
            self._missing[other] -= 1
            if not self._missing[other]:
                heapq.heappush(self._ready, other)
