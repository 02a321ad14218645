"""Ratios that nothing was learned for: drawn evenly, or evenly apart."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from grasp_lora.errors import GraspError
from grasp_lora.ratios import PerAdapter, PruneRatio

__all__ = ["STRATA", "StratifiedRatios", "ratios_between"]

STRATA = 8


class StratifiedRatios:
    """Ratios drawn evenly: of so many in a row one is in each of as many equal parts of [p_min, p_max].

    Args:
        p_min, p_max: The range.
        adapters: Draw one for each of so many adapters, each on its own; 0: one number.
        strata: The parts.
        seed: Seeds a random generator of its own.

    Raises:
        GraspError: The range is none.

    Examples:
        >>> ratios = StratifiedRatios(0.0, 0.8, strata=4)
        >>> sorted(int(ratios.draw() / 0.2) for _ in range(4))
        [0, 1, 2, 3]
    """

    def __init__(
        self, p_min: float, p_max: float, adapters: int = 0, *, strata: int = STRATA, seed: int = 42
    ) -> None:
        if not 0.0 <= p_min <= p_max <= 1.0 or p_min == 1.0:
            raise GraspError(f"need 0 <= p_min <= p_max <= 1, and p_min below 1, got {p_min}, {p_max}")
        self.p_min, self.p_max, self.adapters, self.strata = p_min, p_max, adapters, strata
        self._rng = np.random.default_rng(seed)
        self._left: list[list[int]] = []  # strata that are to come, for each number of a draw

    def draw(self) -> PruneRatio:
        """The next one."""
        if not self._left or not self._left[0]:
            self._left = [self._rng.permutation(self.strata).tolist() for _ in range(max(1, self.adapters))]
        width = (self.p_max - self.p_min) / self.strata
        within = self._rng.random(len(self._left)).tolist()
        drawn = [
            min(self.p_max, self.p_min + width * (left.pop() + u))
            for left, u in zip(self._left, within, strict=True)
        ]
        return PerAdapter(drawn) if self.adapters else drawn[0]

    def state_dict(self) -> dict[str, Any]:
        """All that later draws depend on; JSON can hold it."""
        return {"rng": self._rng.bit_generator.state, "left": [list(left) for left in self._left]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        self._rng.bit_generator.state = state["rng"]
        self._left = [[int(stratum) for stratum in left] for left in state["left"]]


def ratios_between(p_min: float, p_max: float, count: int, adapters: int = 0) -> list[PruneRatio]:
    """So many, evenly; for several adapters all combinations, but for what would leave nothing.

    Raises:
        GraspError: There would be none.
    """
    if count < 1:
        raise GraspError(f"ratios is how many to look at, or which, got {count}")
    steps = range(count if p_min < p_max else 1)
    even = [round(p_min + (p_max - p_min) * i / max(1, count - 1), 9) for i in steps]
    if not adapters:
        return [*even]
    return [PerAdapter(each) for each in product(even, repeat=adapters) if min(each) < 1.0]
