"""Which entries of a LoRA adapter a ratio p prunes: units, scores, thresholds, masks.

GRASP LoRA, Secs. 3.1 and 3.3. A mask is boolean and True means *keep*. The importance of an entry is
its magnitude: the paper's I_j = |W_j| * s has one global constant s > 0, which cannot change a
ranking, so it is not computed.

Zeros rank by their position, below every other entry: a unit with many of them loses exactly k entries. A
unit that is all zeros, as B is before training, has nothing to prune by and keeps every entry, since a pruned
one could never be trained.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from grasp_lora.errors import GraspError

__all__ = [
    "PruneUnit",
    "adapter_parameters",
    "entries_to_prune",
    "masks_at",
    "prune_units",
    "ranked",
    "thresholds",
]

UnitKind = Literal["adapter", "tensor"]

# PEFT's names: `base_model.model.SITE.lora_A.ADAPTER.weight`, and `lora_embedding_A.ADAPTER` for embeddings.
_LORA_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<site>.+)\.lora_(?:embedding_)?(?P<factor>[AB])\.")


class AdapterPart(Protocol):
    """Rows `start:stop` of A and columns `start:stop` of B that came from adapter `name`."""

    @property
    def name(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


class PruneUnit(NamedTuple):
    """A block of one LoRA factor whose entries compete with one another, and with no others.

    The block is `tensor.narrow(dim, start, length)`: rows of A (dim 0) or columns of B (dim 1).
    """

    name: str
    factor: int  # its index in the list of adapter parameters
    dim: int
    start: int
    length: int

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """This unit's view into the list of tensors."""
        return tensors[self.factor].narrow(self.dim, self.start, self.length)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable LoRA factors A and B of a PEFT model, by parameter name.

    Raises:
        GraspError: There are none.
    """
    found = {n: p for n, p in model.named_parameters() if p.requires_grad and _LORA_NAME.match(n)}
    if not found:
        raise GraspError("the model has no trainable LoRA parameters; load it by PEFT with is_trainable=True")
    return found


def prune_units(
    parameters: Mapping[str, Tensor],
    parts: Mapping[str, Sequence[AdapterPart]] | None = None,
    unit: UnitKind = "adapter",
) -> list[PruneUnit]:
    """Cut LoRA factors into prune units.

    Args:
        parameters: LoRA factors by PEFT name; A is (r, in), B is (out, r).
        parts: For a merged adapter, which rows of A and columns of B came from which adapter, by site
            (the module's path in the base model). None: each factor is one unit.
        unit: "adapter" compares entries within one adapter's own A or B at one site; "tensor" within
            the whole merged factor.

    Raises:
        GraspError: A name is not that of a LoRA factor, or the parts do not cover its rank.
    """
    units = []
    for index, (name, tensor) in enumerate(parameters.items()):
        if (match := _LORA_NAME.match(name)) is None:
            raise GraspError(f"{name} is not a LoRA factor")
        dim = 0 if match["factor"] == "A" else 1
        rank = tensor.shape[dim]
        label = f"{match['site']}.lora_{match['factor']}"
        if parts is None or unit == "tensor":
            units.append(PruneUnit(label, index, dim, 0, rank))
            continue
        site_parts = parts.get(match["site"])
        if site_parts is None or [0, *(p.stop for p in site_parts)] != [*(p.start for p in site_parts), rank]:
            raise GraspError(f"the adapter's parts do not cover {name} of rank {rank}: {site_parts}")
        units += [PruneUnit(f"{label}[{p.name}]", index, dim, p.start, p.stop - p.start) for p in site_parts]
    return units


def entries_to_prune(p: float, size: int) -> int:
    """k = floor(p * d), Sec. 3.1, for a decimal p: 0.29 of 100 is 29, though 0.29 * 100 < 29 in binary."""
    if not 0.0 <= p <= 1.0:
        raise GraspError(f"a prune ratio is between 0 and 1, got {p}")
    return min(size, math.floor(p * size + 1e-9))


def thresholds(dense: Sequence[Tensor], units: Sequence[PruneUnit], ratios: Sequence[float]) -> list[Tensor]:
    """The k-th smallest score of every unit at every ratio: tau(p) of Sec. 3.1, zeros ranked by position.

    One sort serves all ratios, and all units of one size.

    Args:
        dense: The factors, pruned entries at their dense values.
        units: From `prune_units`.
        ratios: n prune ratios.

    Returns:
        One tensor of shape (n,) per unit, on the unit's device. It is minus infinity, so that nothing is
        pruned, where k = 0, and below p = 1 where the unit is all zeros.
    """
    result: dict[int, Tensor] = {}
    for group in _same_shape(dense, units):
        values = torch.sort(ranked(torch.stack([units[i].of(dense).reshape(-1) for i in group]))).values
        size = values.shape[1]
        counts = [entries_to_prune(p, size) for p in ratios]
        columns = torch.tensor([max(k - 1, 0) for k in counts], device=values.device)
        none = torch.tensor([k == 0 for k in counts], device=values.device)
        some = torch.tensor([k < size for k in counts], device=values.device)
        untouched = values[:, -1:] < 0  # (units, 1)
        cut = values[:, columns].masked_fill_(none | (untouched & some), -math.inf)  # (units, n)
        result.update(zip(group, cut.unbind(0), strict=True))
    return [result[i] for i in range(len(units))]


def ranked(entries: Tensor) -> Tensor:
    """Magnitudes, in float32 or wider; in the place of a zero a number below 0 that grows with position.

    Args:
        entries: Any shape; the last dimension holds one unit's entries. Up to 2^24 of them are told apart.
    """
    scores = entries.abs().to(torch.promote_types(entries.dtype, torch.float32))
    places = torch.arange(-scores.shape[-1], 0, dtype=scores.dtype, device=scores.device)
    return torch.where(scores == 0, places, scores)


def masks_at(
    dense: Sequence[Tensor], units: Sequence[PruneUnit], cut: Sequence[Tensor], out: Sequence[Tensor]
) -> None:
    """Write keep masks: M_j = 1 - I[I_j <= tau], Sec. 3.1. Ties at the threshold are all pruned, zeros aside.

    Args:
        dense: The factors, pruned entries at their dense values.
        units: From `prune_units`; together they cover every entry.
        cut: One scalar threshold per unit.
        out: Boolean tensors shaped as `dense`, overwritten.
    """
    for unit, threshold in zip(units, cut, strict=True):
        block = unit.of(dense)
        unit.of(out).copy_((ranked(block.reshape(-1)) > threshold).view(block.shape))


def _same_shape(tensors: Sequence[Tensor], units: Sequence[PruneUnit]) -> Iterable[list[int]]:
    """Indices of units that can be sorted together."""
    groups: dict[tuple[int, torch.dtype, torch.device], list[int]] = defaultdict(list)
    for i, unit in enumerate(units):
        block = unit.of(tensors)
        groups[block.numel(), block.dtype, block.device].append(i)
    return groups.values()
