"""Which entries a ratio p prunes: thresholds and masks (GRASP LoRA, Secs. 3.1 and 3.3).

A mask is boolean and True means *keep*. Zeros rank by their position, below every other entry: a unit with
many of them loses exactly k entries. A unit that is all zeros, as B is before training, has nothing to prune
by and keeps every entry, since a pruned one could never be trained.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from grasp_lora.control.bits import CPU, kth_smallest
from grasp_lora.control.blocks import Blocks, alike
from grasp_lora.control.importance import magnitude
from grasp_lora.control.units import PruneUnit
from grasp_lora.errors import GraspError

__all__ = [
    "entries_to_prune",
    "kept_of_each",
    "masks_at",
    "numbers",
    "pieces_of",
    "pruned_share",
    "thresholds",
]

SORTED = 1 << 20  # entries at a time: a sort takes 24 more bytes for each


def entries_to_prune(p: float, size: int) -> int:
    """k = floor(p * d), Sec. 3.1, for a decimal p: 0.29 of 100 is 29, though 0.29 * 100 < 29 in binary."""
    if not 0.0 <= p <= 1.0:
        raise GraspError(f"a prune ratio is between 0 and 1, got {p}")
    return min(size, math.floor(p * size + 1e-9))


@torch.no_grad()
def thresholds(
    values: Sequence[Tensor], units: Sequence[PruneUnit], ratios: Sequence[float | Sequence[float]]
) -> list[list[Tensor]]:
    """The k-th smallest magnitude of every unit at every ratio: tau(p) of Sec. 3.1, zeros ranked by position.

    On a CPU it is selected. Elsewhere one sort serves all ratios, and the units of many factors, and nothing
    is waited for but that counts are copied there.

    Args:
        values: What is scored: the factors, pruned entries at their dense values, or importance itself.
        units: From `prune_units`.
        ratios: n prune ratios, each a number for all units or one for each of them.

    Returns:
        For each ratio what `masks_at` takes: the thresholds of the units of each of `pieces_of`, on their
        device. One is minus infinity, so that nothing is pruned, where k = 0, and below p = 1 where the unit
        is all zeros.
    """
    if not ratios:
        return []
    pieces = pieces_of(values, units)
    counts = []  # of a piece, of its units, for each ratio
    for _, _, of in pieces:
        size = units[of[0]].size(values)
        ratios_of_each = [[p if isinstance(p, float | int) else p[i] for p in ratios] for i in of]
        k_of = {p: entries_to_prune(p, size) for p in {p for of_unit in ratios_of_each for p in of_unit}}
        counts.append([[k_of[p] for p in of_unit] for of_unit in ratios_of_each])
    k = torch.tensor([own for of_piece in counts for own in of_piece])  # (units, n)
    k_at = {device: k.to(device) for device in {value.device for value in values}}  # waited for once
    found: list[Tensor] = []  # of a piece, (units, n)
    start = 0
    for (n, factors, of), own in zip(pieces, counts, strict=True):
        if (device := values[factors[0]].device) == CPU:
            each = [_selected(units[i].of(values), of_unit) for i, of_unit in zip(of, own, strict=True)]
            found.append(torch.stack(each))
        else:
            block = units[of[0]].of_each(_together(values, n, factors), len(of) // len(factors))
            found.append(_sorted(block.flatten(2).flatten(0, 1), k_at[device][start : start + len(of)]))
        start += len(of)
    cuts = [of_piece.unbind(1) for of_piece in found]
    return [[of_piece[at] for of_piece in cuts] for at in range(len(ratios))]


def _selected(block: Tensor, counts: Sequence[int]) -> Tensor:
    """One unit's thresholds, (n,), on a CPU."""
    scores = magnitude(block).reshape(-1)
    cut = kth_smallest(scores, [max(1, k) for k in counts])
    if not cut.all():  # some are zeros: their places are the thresholds
        places = (scores == 0).nonzero().reshape(-1) - len(scores)
        for n, k in enumerate(counts):
            if cut[n] == 0:
                untouched = len(places) == len(scores) and k < len(scores)
                cut[n] = -math.inf if untouched else places[k - 1]
    return cut.masked_fill_(torch.tensor(counts) == 0, -math.inf)


def _sorted(values: Tensor, k: Tensor) -> Tensor:
    """The thresholds of units of one size, (units, n), on any device.

    Args:
        values: (units, d).
        k: (units, n).
    """
    ranked, places = _ranked(magnitude(values)), (k - 1).clamp_(min=0)
    rows = max(1, SORTED // ranked.shape[1])
    at_a_time = zip(torch.split(ranked, rows), torch.split(places, rows), strict=True)
    cut = torch.cat([torch.sort(some).values.gather(1, place) for some, place in at_a_time])  # (units, n)
    untouched = ranked.amax(1, keepdim=True) < 0  # (units, 1)
    return cut.masked_fill_((k == 0) | (untouched & (k < ranked.shape[1])), -math.inf)


@torch.no_grad()
def masks_at(
    values: Sequence[Tensor], units: Sequence[PruneUnit], cut: Sequence[Tensor], out: Sequence[Tensor]
) -> None:
    """Write keep masks: M_j = 1 - I[I_j <= tau], Sec. 3.1. Ties at the threshold are all pruned, zeros aside.

    Args:
        values: As for `thresholds`.
        units: From `prune_units`; together they cover every entry.
        cut: Of `thresholds`, for the same units.
        out: Boolean tensors shaped as `values`, overwritten; `Blocks` in the order of those of `values`.
    """
    for (n, factors, of), own in zip(pieces_of(values, units), cut, strict=True):
        if values[factors[0]].device == CPU:
            for i, threshold in zip(of, own, strict=True):
                _mask_here(units[i].of(values), threshold, units[i].of(out))
            continue
        each = len(of) // len(factors)
        block = units[of[0]].of_each(_together(values, n, factors), each)
        scores = _ranked(magnitude(block.flatten(2)))
        kept = (scores > own.view(len(factors), each, 1)).view(block.shape)
        if isinstance(out, Blocks):
            units[of[0]].of_each(out.blocks[n], each).copy_(kept)
        else:
            into = [units[i].of(out) for i in of]
            torch._foreach_copy_(into, [*kept.flatten(0, 1).unbind(0)])


def _mask_here(block: Tensor, threshold: Tensor, out: Tensor) -> None:
    """One unit's mask, on a CPU."""
    if -math.inf < (value := threshold.item()) < 0:  # a place: zeros are told apart
        out.copy_((_ranked(magnitude(block.reshape(-1))) > threshold).view(block.shape))
    else:
        np.greater(magnitude(block).numpy(), value, out=out.numpy())


def kept_of_each(masks: Blocks, units: Sequence[PruneUnit]) -> list[int]:
    """How many entries of every unit the keep masks keep."""
    pieces = pieces_of(masks, units)
    sums = []
    for n, factors, of in pieces:
        block = units[of[0]].of_each(masks.blocks[n], len(of) // len(factors))
        sums.append(block.flatten(2).sum(2, dtype=torch.int32).flatten().to(masks[0].device))
    found = dict(zip([i for *_, of in pieces for i in of], torch.cat(sums).tolist(), strict=True))
    return [found[i] for i in range(len(units))]


def pruned_share(masks: Iterable[Tensor]) -> float:
    """The share of all entries that keep masks prune."""
    kept = [(int(mask.sum()), mask.numel()) for mask in masks]
    return 1.0 - sum(k for k, _ in kept) / max(1, sum(n for _, n in kept))


def numbers(values: Sequence[Tensor]) -> list[float]:
    """What the scalars hold, waited for once, though a backbone be spread over several devices."""
    first = values[0].device if values else None
    return torch.stack([value.to(first) for value in values]).tolist() if values else []


def _ranked(scores: Tensor) -> Tensor:
    """The scores, and in the place of each zero a number below 0 that grows with its position.

    Args:
        scores: The last dimension holds one unit's entries. Up to 2^24 of them are told apart in float32.
    """
    places = torch.arange(-scores.shape[-1], 0, dtype=scores.dtype, device=scores.device)
    return torch.where(scores == 0, places, scores)


def pieces_of(
    values: Sequence[Tensor], units: Sequence[PruneUnit]
) -> list[tuple[int, Sequence[int], Sequence[int]]]:
    """Units of one size in factors that are cut alike, whose thresholds and masks are made together.

    Returns:
        Which of the `Blocks` it is, its factors, and the units, those of one factor after those of the one
        before.
    """
    own: dict[int, list[int]] = defaultdict(list)
    for i, unit in enumerate(units):
        own[unit.factor].append(i)
    found: list[tuple[int, Sequence[int], Sequence[int]]] = []
    for n, factors in enumerate(values.order if isinstance(values, Blocks) else alike(values, units)):
        lengths = [units[i].length for i in own[factors[0]]]
        each = len(lengths) if len(set(lengths)) == 1 else 1  # units of a factor that go together
        for place in range(0, len(lengths), each):
            together = [i for factor in factors for i in own[factor][place : place + each]]
            found.append((n, factors, together))
    return found


def _together(tensors: Sequence[Tensor], n: int, factors: Sequence[int]) -> Tensor:
    """The factors as one, (factors, ...)."""
    if isinstance(tensors, Blocks):
        return tensors.blocks[n]
    return torch.stack([tensors[i] for i in factors])
