"""Tensors of which those that are treated alike lie in one block of memory.

An adapter has hundreds of small factors. On a GPU each call takes longer than what it does to one of them, so
that masks would take longer than passes; a call for a whole block takes as long as a call for one factor.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from grasp_lora.control.units import PruneUnit

__all__ = ["Blocks", "alike"]

MOST = 1 << 23
"""Entries of a block, where it has more than one tensor: computing with it takes 9 more bytes for each."""


def alike(tensors: Sequence[Tensor], units: Sequence[PruneUnit]) -> list[list[int]]:
    """The indices of those of one shape, type and device that are cut into units at the same places."""
    places = defaultdict(list)
    for unit in units:
        places[unit.factor].append((unit.dim, unit.start, unit.length))
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, tensor in enumerate(tensors):
        groups[tensor.shape, tensor.dtype, tensor.device, tuple(places[i])].append(i)
    found = []
    for (shape, *_), group in groups.items():
        most = max(1, MOST // max(1, shape.numel()))
        found += [group[start : start + most] for start in range(0, len(group), most)]
    return found


class Blocks(list[Tensor]):
    """The tensors, each a view into the block of those like it.

    Args:
        blocks: (tensors, ...) each.
        order: For each block which tensors are in it, in their order; see `alike`.
    """

    def __init__(self, blocks: Sequence[Tensor], order: Sequence[Sequence[int]]) -> None:
        self.blocks, self.order = list(blocks), order
        views: dict[int, Tensor] = {}
        for of, block in zip(order, blocks, strict=True):
            views.update(zip(of, block.unbind(0), strict=True))
        super().__init__(views[i] for i in range(len(views)))

    @classmethod
    def copied(cls, tensors: Sequence[Tensor], order: Sequence[Sequence[int]]) -> Self:
        """A copy of tensors that are each where it is."""
        return cls([torch.stack([tensors[i] for i in of]) for of in order], order)

    def map(self, compute: Callable[..., Tensor], *others: "Blocks") -> "Blocks":
        """What is computed block by block."""
        each = zip(self.blocks, *(other.blocks for other in others), strict=True)
        return Blocks([compute(*blocks) for blocks in each], self.order)
