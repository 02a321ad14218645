"""Which entries of a LoRA adapter compete with one another when it is pruned."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from grasp_lora.errors import GraspError, check_choice
from grasp_lora.ratios import PerAdapter, PruneRatio

__all__ = [
    "AdapterPart",
    "ImportanceFrom",
    "ImportanceRefresh",
    "InputsOf",
    "Parts",
    "Pool",
    "PruneUnit",
    "Pruning",
    "ResetUnit",
    "ResetValue",
    "UnitKind",
    "adapter_parameters",
    "names_of_parts",
    "prune_units",
    "ratios_of_units",
    "site_of",
]

UnitKind = Literal["adapter", "tensor"]
ImportanceRefresh = Literal["round", "start"]
# Of pruning at every step (Miyano & Arase):
ImportanceFrom = Literal["input", "gradient"]
ResetUnit = Literal["parameter", "module"]
ResetValue = Literal["zero", "init"]
InputsOf = Literal["projection", "layer"]
Pool = Literal["entries", "factors"]

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


Parts = Mapping[str, Sequence[AdapterPart]]
"""Of a merged adapter, by site (the module's path in the base model)."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """How an adapter is cut into units and scored.

    Attributes:
        parts: For a merged adapter, which rows of A and columns of B came from which adapter. None: each
            factor is one unit.
        unit: "adapter" compares entries within one adapter's own A or B at one site; "tensor" within the
            whole merged factor.
        importance_refresh: "round" scores the present dense values, "start" those at the start.
    """

    parts: Parts | None = None
    unit: UnitKind = "adapter"
    importance_refresh: ImportanceRefresh = "round"

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, UnitKind)
        check_choice("importance_refresh", self.importance_refresh, ImportanceRefresh)

    def settings(self) -> dict[str, Any]:
        """The same for JSON."""
        parts = None
        if self.parts is not None:
            parts = {site: [[p.name, p.start, p.stop] for p in own] for site, own in self.parts.items()}
        return {"parts": parts, "unit": self.unit, "importance_refresh": self.importance_refresh}


class PruneUnit(NamedTuple):
    """A block of one LoRA factor whose entries compete with one another, and with no others.

    The block is `tensor.narrow(dim, start, length)`: rows of A (dim 0) or columns of B (dim 1).
    """

    name: str
    factor: int  # its index in the list of adapter parameters
    dim: int
    start: int
    length: int
    part: str = ""  # the adapter that it came from

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """This unit's view into the list of tensors."""
        return tensors[self.factor].narrow(self.dim, self.start, self.length)

    def size(self, tensors: Sequence[Tensor]) -> int:
        """How many entries it has, without a view: there are hundreds of units."""
        return tensors[self.factor].shape[1 - self.dim] * self.length

    def of_each(self, factors: Tensor, count: int) -> Tensor:
        """The view of this block, and of the next ones of its length, in each of several factors.

        Args:
            factors: (factors, ...), all cut alike.
            count: Blocks of each.

        Returns:
            (factors, count, ...).
        """
        dim = self.dim + 1
        shape = (*factors.shape[:dim], count, self.length, *factors.shape[dim + 1 :])
        return factors.narrow(dim, self.start, count * self.length).view(shape).movedim(dim, 1)


def site_of(name: str) -> tuple[str, str]:
    """The site of a LoRA factor, and which of "A" and "B" it is.

    Raises:
        GraspError: The name is not that of one.
    """
    if (match := _LORA_NAME.match(name)) is None:
        raise GraspError(f"{name} is not a LoRA factor")
    return match["site"], match["factor"]


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
    parameters: Mapping[str, Tensor], parts: Parts | None = None, unit: UnitKind = "adapter"
) -> list[PruneUnit]:
    """Cut LoRA factors into prune units.

    Args:
        parameters: LoRA factors by PEFT name; A is (r, in), B is (out, r).
        parts, unit: See `Pruning`.

    Raises:
        GraspError: A name is not that of a LoRA factor, or the parts do not cover its rank.
    """
    units = []
    for index, (name, tensor) in enumerate(parameters.items()):
        site, factor = site_of(name)
        dim = 0 if factor == "A" else 1
        rank = tensor.shape[dim]
        label = f"{site}.lora_{factor}"
        if parts is None or unit == "tensor":
            units.append(PruneUnit(label, index, dim, 0, rank))
            continue
        site_parts = parts.get(site)
        if site_parts is None or [0, *(p.stop for p in site_parts)] != [*(p.start for p in site_parts), rank]:
            raise GraspError(f"the adapter's parts do not cover {name} of rank {rank}: {site_parts}")
        units += [
            PruneUnit(f"{label}[{p.name}]", index, dim, p.start, p.stop - p.start, p.name) for p in site_parts
        ]
    return units


def names_of_parts(parts: Parts) -> tuple[str, ...]:
    """The adapters that were merged, in the order of the merge: a site may lack some, and has no other order.

    Raises:
        GraspError: Sites disagree about the order.
    """
    after: dict[str, set[str]] = {}  # in the order in which sites first name them
    for of_site in parts.values():
        for place, part in enumerate(of_site):
            after.setdefault(part.name, set()).update(one.name for one in of_site[:place])
    names: list[str] = []
    while len(names) < len(after):
        free = [name for name, others in after.items() if name not in names and others <= {*names}]
        if not free:
            raise GraspError("the adapter's parts are in another order at one site than at another")
        names.append(free[0])
    return tuple(names)


def ratios_of_units(units: Sequence[PruneUnit], adapters: Sequence[str], p: PruneRatio) -> list[float]:
    """Each unit's ratio: the one for all, or that of the adapter it came from.

    Raises:
        GraspError: There are not as many ratios as adapters.
    """
    if not isinstance(p, PerAdapter):
        return [p] * len(units)
    if len(p) != len(adapters):
        raise GraspError(
            f"{len(p)} ratios, one for each adapter, and the adapter has {len(adapters)} parts"
            + (f" ({', '.join(adapters)})" if adapters else "")
            + ": give parts, unit='adapter', and as many ratios"
        )
    ratios = dict(zip(adapters, p, strict=True))
    return [ratios[unit.part] for unit in units]
