"""What an adapter's weight changes are made of, and the nearest ones of lower rank.

All from the two factors: QR of each and the SVD of the small core between them, never of delta W itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grasp_lora.errors import GraspError
from grasp_lora.merging.reading import Factors

__all__ = [
    "Lost",
    "compressed",
    "decomposed",
    "difference",
    "effective_rank",
    "rank_for_energy",
    "singular_values",
    "truncated",
]

_ROUNDING = 1e-12  # of the squared norm, in float64


@dataclass(frozen=True, slots=True)
class Lost:
    """What lowering the rank took from one site's delta W.

    Attributes:
        energy: Share of the squared Frobenius norm, in [0, 1].
        before: The rank of the factors, as the adapter was.
        rank: The one that it has now.
    """

    energy: float
    before: int
    rank: int


def decomposed(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """The thin SVD of delta_W = s B A: U (out, k), singular values (k,) from large to small, V^T (k, in).

    In float64; k is the factors' rank r, or less where `out` or `in` is.
    """
    q_b, r_b = torch.linalg.qr(factors.B.double())  # (out, k_b), (k_b, r)
    q_a, r_a = torch.linalg.qr(factors.A.double().T)  # (in, k_a), (k_a, r)
    u, values, vh = torch.linalg.svd(factors.scaling * (r_b @ r_a.T), full_matrices=False)
    return q_b @ u, values, vh @ q_a.T


def singular_values(factors: Factors) -> Tensor:
    """Those of delta_W (k,), from large to small, in float64."""
    r_b, r_a = (torch.linalg.qr(one.double(), mode="r").R for one in (factors.B, factors.A.T))
    values: Tensor = factors.scaling * torch.linalg.svdvals(r_b @ r_a.T)
    return values


def effective_rank(values: Tensor) -> float:
    """exp(H(p)), p_i = sigma_i / sum_j sigma_j, H the entropy in nats (Roy and Vetterli, 2007).

    n equal singular values have n; zero where there is no change at all.

    Args:
        values: Singular values (k,), not negative.
    """
    total = values.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())


def rank_for_energy(values: Tensor, share: float) -> int:
    """The smallest rank that keeps `share` of the squared Frobenius norm, at least 1.

    Args:
        values: Singular values (k,), from large to small.
        share: In (0, 1]; 1 keeps all but rounding.
    """
    squares = values.square()
    kept = squares.cumsum(0) >= (share - _ROUNDING) * squares.sum()
    return int(kept.long().argmax()) + 1


def truncated(factors: Factors, rank: int) -> tuple[Factors, float]:
    """The nearest factors of at most `rank`, with the same scaling, and the share of energy that is lost.

    Both factors get the square roots of the singular values.
    """
    u, values, vh = decomposed(factors)
    rank = min(rank, len(values))
    squares = values.square()
    lost = float(squares[rank:].sum() / squares.sum()) if squares.any() else 0.0
    roots = (values[:rank] / factors.scaling).sqrt()
    a, b = roots[:, None] * vh[:rank], u[:, :rank] * roots
    kind = factors.A.dtype
    return replace(factors, A=a.to(kind).contiguous(), B=b.to(kind).contiguous()), lost


def compressed(
    sites: Mapping[str, Factors], rank: int | None = None, energy: float | None = None
) -> tuple[dict[str, Factors], dict[str, Lost]]:
    """Each site's nearest factors of at most `rank`, or of the smallest rank that keeps `energy`.

    A site whose rank does not fall stays as it is, and is not among the lost.

    Raises:
        GraspError: None of the two was given, or both, or a number that means nothing.
    """
    if (rank is None) == (energy is None):
        raise GraspError("give a rank, or the share of energy to keep, and not both")
    if rank is not None and rank < 1:
        raise GraspError(f"the rank must be at least 1, got {rank}")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise GraspError(f"the energy is a share above 0 and at most 1, such as 0.99; got {energy}")
    made, lost = dict[str, Factors](), dict[str, Lost]()
    for site, factors in sites.items():
        wanted = rank if energy is None else rank_for_energy(singular_values(factors), energy)
        assert wanted is not None
        made[site] = factors
        if wanted < factors.rank:
            made[site], share = truncated(factors, wanted)
            lost[site] = Lost(share, factors.rank, made[site].rank)
    return made, lost


def difference(one: Factors, other: Factors) -> float:
    """The Frobenius norm of the difference of two delta Ws, as a share of the first one's norm."""
    b = torch.cat([one.scaling * one.B.double(), -other.scaling * other.B.double()], dim=1)
    a = torch.cat([one.A.double(), other.A.double()], dim=0)
    r_b, r_a = (torch.linalg.qr(factor, mode="r").R for factor in (b, a.T))
    apart, size = float((r_b @ r_a.T).norm()), float(singular_values(one).norm())
    if size == 0.0:
        return 0.0 if apart == 0.0 else float("inf")
    return apart / size
