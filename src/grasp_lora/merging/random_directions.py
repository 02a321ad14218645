"""An adapter as large as another, in random directions: what a source must beat to have transferred."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from grasp_lora.merging.reading import Factors, read_adapters
from grasp_lora.merging.writing import new_folder, write_adapter

__all__ = ["randomise_adapter"]


def randomise_adapter(adapter: str | Path, out: Path, seed: int = 0) -> None:
    """Writes into `out` an adapter whose delta W has at each site the singular values of the given one's, and
    singular vectors drawn evenly from all orthonormal ones.

    The two factors keep the ratio of their norms, on which training depends.

    Raises GraspError for what `read_adapters` refuses.
    """
    (read,) = read_adapters({"adapter": adapter})
    generator = torch.Generator().manual_seed(seed)
    sites = {site: _randomised(factors, generator) for site, factors in read.sites.items()}
    with new_folder(Path(out)) as folder:
        write_adapter(folder, sites, [read])


def _randomised(factors: Factors, generator: torch.Generator) -> Factors:
    a, b = factors.A, factors.B  # (r, in), (out, r)
    values = torch.linalg.svdvals(torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T)  # of B A, at most r
    count = len(values)
    left, right = (_orthonormal(size, count, a, generator) for size in (b.shape[0], a.shape[1]))
    ratio = (b.norm() / a.norm()).sqrt() if values.any() else torch.ones(())
    new_a, new_b = torch.zeros_like(a), torch.zeros_like(b)
    new_b[:, :count] = left * values.sqrt() * ratio
    new_a[:count] = (right * values.sqrt() / ratio).T
    return replace(factors, A=new_a, B=new_b)


def _orthonormal(size: int, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """(size, count), its columns orthonormal and evenly distributed."""
    q, r = torch.linalg.qr(torch.randn(size, count, dtype=like.dtype, generator=generator))
    oriented: Tensor = q * r.diagonal().sign()
    return oriented
