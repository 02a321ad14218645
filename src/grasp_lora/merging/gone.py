"""A merged adapter without those parts of which nothing is left."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from grasp_lora.errors import GraspError
from grasp_lora.merging.parts import Part
from grasp_lora.merging.reading import read_adapters
from grasp_lora.merging.writing import write_adapter

__all__ = ["drop_parts"]


def drop_parts(
    folder: Path, parts: Mapping[str, Sequence[Part]], gone: Collection[str]
) -> dict[str, torch.Tensor]:
    """Writes the adapter in `folder` anew with the rows of A and the columns of B of the other parts alone.

    Its rank is theirs, and its scaling stays: logits are what they were where the parts that go were zeros. A
    site that nothing is left of is no longer adapted.

    Args:
        parts: Of the merge that it was trained from.
        gone: Their names.

    Returns:
        By site, which of its rows of A and columns of B stay.

    Raises:
        GraspError: Nothing would be left.
    """
    (adapter,) = read_adapters({folder.name: folder})
    kept = {
        site: torch.cat(rows)
        for site, of_site in parts.items()
        if (rows := [torch.arange(one.start, one.stop) for one in of_site if one.name not in gone])
    }
    if not kept:
        raise GraspError(f"{folder} has no part but {', '.join(sorted(gone))}: nothing would be left")
    sites = {
        site: replace(factors, A=factors.A[kept[site]], B=factors.B[:, kept[site]])
        for site, factors in adapter.sites.items()
        if site in kept
    }
    write_adapter(folder, sites, [adapter])
    return kept
