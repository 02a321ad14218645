"""What is in an adapter, from its files alone: ranks, zeros, and how large its weight changes are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from grasp_lora.errors import GraspError
from grasp_lora.merging.compress import effective_rank, singular_values
from grasp_lora.merging.hub import find_adapter
from grasp_lora.merging.parts import Part, find_parts, read_parts
from grasp_lora.merging.reading import Factors, read_adapters

__all__ = ["Inspection", "Module", "PartZeros", "inspect_adapter", "place_of"]


@dataclass(frozen=True, slots=True)
class Module:
    """One adapted module.

    Attributes:
        layer: The first number in its path; None where there is none, as in `lm_head`.
        projection: What follows that number, such as `self_attn.q_proj`, or the whole path.
        zeros: Entries of A and B that are exactly zero, of `entries`.
        norm: Frobenius norm of delta W = s B A.
        effective_rank: Of delta W, see `merging.compress`.
    """

    site: str
    layer: int | None
    projection: str
    rank: int
    scaling: float
    zeros: int
    entries: int
    norm: float
    effective_rank: float


@dataclass(frozen=True, slots=True)
class PartZeros:
    """Entries of one adapter's rows of all A and columns of all B in a merged adapter, and those that are
    exactly zero.
    """

    name: str
    zeros_a: int
    entries_a: int
    zeros_b: int
    entries_b: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found; `parts` is empty for an adapter that was not merged."""

    base: str | None
    modules: tuple[Module, ...]
    parts: tuple[PartZeros, ...]


def inspect_adapter(adapter: str | Path, merge: str | Path | None = None) -> Inspection:
    """Read any plain LoRA adapter: a folder, or OWNER/NAME[@REVISION] on the model hub.

    Args:
        merge: The folder of the merge that it was trained from, whose parts are told apart; None: its own
            `parts.json`, where it has one.

    Raises:
        GraspError: As `read_adapters`; or `merge` has no parts, or those of another adapter.
    """
    folder = find_adapter(adapter)
    (read,) = read_adapters({str(adapter): folder})
    modules = [_module(site, factors) for site, factors in read.sites.items()]
    parts = (read_parts(folder) if merge is None else find_parts(merge)) or {}
    ordered = sorted(modules, key=lambda one: (one.layer is None, one.layer or 0, one.projection))
    return Inspection(
        read.config.base_model_name_or_path, tuple(ordered), _zeros_by_part(str(adapter), read.sites, parts)
    )


def place_of(site: str) -> tuple[int | None, str]:
    """Layer and projection: `model.layers.3.self_attn.q_proj` is (3, "self_attn.q_proj")."""
    match = re.search(r"(?:^|\.)(\d+)\.", site)
    return (None, site) if match is None else (int(match[1]), site[match.end() :])


def _module(site: str, factors: Factors) -> Module:
    values, (layer, projection) = singular_values(factors), place_of(site)
    return Module(
        site,
        layer,
        projection,
        factors.rank,
        factors.scaling,
        _zeros(factors.A, factors.B),
        factors.A.numel() + factors.B.numel(),
        float(values.norm()),
        effective_rank(values),
    )


def _zeros_by_part(
    name: str, sites: Mapping[str, Factors], parts: Mapping[str, Sequence[Part]]
) -> tuple[PartZeros, ...]:
    counted: dict[str, list[int]] = {}
    for site, of_site in parts.items():
        if site not in sites or of_site[-1].stop != sites[site].rank:
            raise GraspError(f"{name} was not trained from that merge: at {site} its parts do not fit")
        for part in of_site:
            had = counted.get(part.name, [0, 0, 0, 0])
            counted[part.name] = [old + new for old, new in zip(had, _counts(sites[site], part), strict=True)]
    return tuple(PartZeros(part, *counts) for part, counts in counted.items())


def _counts(factors: Factors, part: Part) -> Sequence[int]:
    a, b = factors.A[part.start : part.stop], factors.B[:, part.start : part.stop]
    return _zeros(a), a.numel(), _zeros(b), b.numel()


def _zeros(*tensors: Tensor) -> int:
    return sum(int((tensor == 0).sum()) for tensor in tensors)
