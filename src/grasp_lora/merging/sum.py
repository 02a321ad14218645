"""Merging adapters by their factors alone, without the base model (GRASP, Eq. 1)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from grasp_lora.errors import GraspError
from grasp_lora.merging.hub import find_adapter
from grasp_lora.merging.parts import Part, read_parts, write_parts
from grasp_lora.merging.reading import Factors, read_adapters, site_names
from grasp_lora.merging.writing import new_folder, write_adapter

__all__ = ["MERGED", "METHODS", "add_factors", "merge_adapters", "stack_factors"]

METHODS = ("sum", "linear")
MERGED = "merged"  # the one part of an adapter whose rows cannot be told apart any more


def merge_adapters(adapters: Mapping[str, str | Path], out: Path, method: str = "sum") -> None:
    """Merges LoRA adapters into one plain PEFT adapter in the folder `out`, with `parts.json` beside it.

    `adapters` maps a name to a folder with `adapter_config.json` and `adapter_model.safetensors`, or to
    OWNER/NAME[@REVISION] on the model hub; the names go to `parts.json`. The base model is not needed. `out`
    must be new or empty, and appears only when it is complete.

    - `sum` (the default): `delta_W = sum_a s_a B_a A_a`, GRASP's Eq. 1 with PEFT's scaling
      `s_a = alpha_a / r_a` (rsLoRA: `alpha_a / sqrt(r_a)`) written out. At each site, with `R = sum_a r_a`,
      the rows of the `A_a` (r_a, in) are stacked into A (R, in) and the columns of the `B_a` (out, r_a) into
      B (out, R). Logits equal those of the separate adapters active together, up to float32 rounding.
      Ranks, scalings and adapted modules may differ; a module that only one has is taken as it is. An
      adapter that is itself a sum keeps its parts, named "a.b" for the part b of the adapter a.
    - `linear`: `delta_W = s (sum_a B_a)(sum_a A_a)`, what the GRASP authors' code computes, with the cross
      terms `B_a A_b` that Eq. 1 does not have. Adapters must share ranks, scalings and modules.

    The common scaling stays in the config (`lora_alpha = s * R`) and is not folded into the factors. The
    adapter is trained on after the merge, and AdamW moves an entry by about the learning rate whatever the
    scale of its gradient: with s in the config a step on B changes delta_W s times as much as with s folded
    into B. Where scalings differ, s is the largest and only `s_a / s <= 1` is folded into `B_a`.

    `lora_dropout` and `fan_in_fan_out` are the first adapter's; everything else that describes the base model
    must agree. Factors are written in float32.

    Raises GraspError, naming adapter and setting, for anything but plain LoRA on one base model.
    """
    if method not in METHODS:
        raise GraspError(
            f"unknown merge method {method!r}; use one of {', '.join(METHODS)}, "
            f"or combine_with_peft for PEFT's own"
        )
    merge_site = stack_factors if method == "sum" else add_factors
    with new_folder(Path(out)) as folder:
        loaded = read_adapters(adapters)
        inside = {name: read_parts(find_adapter(path)) or {} for name, path in adapters.items()}
        sites, parts = {}, {}
        for site in site_names(loaded):
            owners = {adapter.name: adapter.sites[site] for adapter in loaded if site in adapter.sites}
            if method == "linear":
                _check_linear(site, list(adapters), owners)
            sites[site], of_site = merge_site(owners)
            parts[site] = [
                p for part in of_site for p in _opened(part, inside.get(part.name, {}).get(site, ()))
            ]
        write_adapter(folder, sites, loaded)
        write_parts(folder, parts)


def stack_factors(owners: Mapping[str, Factors]) -> tuple[Factors, tuple[Part, ...]]:
    """delta_W = sum_a s_a B_a A_a = s [.. (s_a / s) B_a ..] [.. A_a ..], s = max_a s_a."""
    scaling = max(factors.scaling for factors in owners.values())
    rows = torch.cat([factors.A for factors in owners.values()], dim=0)  # (R, in)
    columns = torch.cat(
        [factors.B * (factors.scaling / scaling) for factors in owners.values()], dim=1
    )  # (out, R)
    parts, start = [], 0
    for name, factors in owners.items():
        parts.append(Part(name, start, start + factors.rank))
        start += factors.rank
    embedding = next(iter(owners.values())).embedding
    return Factors(rows, columns, scaling, embedding), tuple(parts)


def add_factors(owners: Mapping[str, Factors]) -> tuple[Factors, tuple[Part, ...]]:
    """delta_W = s (sum_a B_a)(sum_a A_a)."""
    first = next(iter(owners.values()))
    rows = torch.stack([factors.A for factors in owners.values()]).sum(dim=0)  # (r, in)
    columns = torch.stack([factors.B for factors in owners.values()]).sum(dim=0)  # (out, r)
    return Factors(rows, columns, first.scaling, first.embedding), (Part(MERGED, 0, first.rank),)


def _opened(part: Part, inside: Sequence[Part]) -> list[Part]:
    """The parts that an adapter had before, in its place."""
    if len(inside) < 2:
        return [part]
    opened = [Part(f"{part.name}.{p.name}", part.start + p.start, part.start + p.stop) for p in inside]
    if opened[-1].stop != part.stop:
        raise GraspError(
            f"the parts.json of the adapter {part.name!r} describes {inside[-1].stop} rows where it has "
            f"{part.stop - part.start}: merge that adapter again"
        )
    return opened


def _check_linear(site: str, names: list[str], owners: Mapping[str, Factors]) -> None:
    if missing := [name for name in names if name not in owners]:
        raise GraspError(
            f"linear needs adapters over the same modules, but {missing[0]!r} has no factors at {site}; "
            f"use sum"
        )
    (first, expected), *rest = owners.items()
    for name, factors in rest:
        if factors.rank != expected.rank or not math.isclose(factors.scaling, expected.scaling):
            raise GraspError(
                f"linear needs adapters of one rank and scaling, but at {site} {first!r} has rank "
                f"{expected.rank} and scaling {expected.scaling:g}, {name!r} has {factors.rank} and "
                f"{factors.scaling:g}; use sum"
            )
