"""LoRAHub: one weight per frozen adapter, found without gradients (Huang et al., 2024)."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from grasp_lora.errors import GraspError
from grasp_lora.merging.parts import Part, write_parts
from grasp_lora.merging.reading import Adapter, Factors, read_adapters, site_names
from grasp_lora.merging.sum import add_factors, stack_factors
from grasp_lora.merging.writing import new_folder, write_adapter

__all__ = [
    "Evaluated",
    "Search",
    "merge_weighted",
    "optimiser",
    "place_factors",
    "search_weights",
    "weigh_adapters",
]


def merge_weighted(
    adapters: Mapping[str, str | Path], weights: Mapping[str, float], out: Path, *, exact: bool = False
) -> None:
    """Writes the adapters, weighted and combined as `weigh_adapters` does it, into the folder `out`.

    What is left there is a plain PEFT adapter with `parts.json` beside it; see `merge_adapters` for what
    adapters may be and for `out`.
    """
    with new_folder(Path(out)) as folder:
        loaded = read_adapters(adapters)
        sites, parts = weigh_adapters(loaded, weights, exact=exact)
        write_adapter(folder, sites, loaded)
        write_parts(folder, parts)


def weigh_adapters(
    adapters: Sequence[Adapter], weights: Mapping[str, float], *, exact: bool = False
) -> tuple[dict[str, Factors], dict[str, tuple[Part, ...]]]:
    """The factors of all adapters combined, and their parts, both by site.

    - By default LoRAHub's element-wise composition (Huang et al., 2024, Sec. 3.2),
      `delta_W = s (sum_a w_a c_a B_a)(sum_a w_a c_a A_a)`, in which an adapter's own term is
      `w_a^2 s_a B_a A_a`: the sign of a weight shows in the cross terms only. Ranks must be equal wherever
      adapters meet. LoRAHub's adapters all have one scaling. Here s is the site's largest and
      `c_a = sqrt(s_a / s)`, as in PEFT's `linear`: one where scalings are equal, otherwise own terms keep
      their own scaling and the cross term of a and b has `sqrt(s_a s_b)`.
    - `exact`: `delta_W = sum_a w_a s_a B_a A_a`, stacked as in `merge_adapters(..., "sum")` with w in B, so
      that the rank is the sum of ranks. Ranks may differ.

    An adapter without factors at a site adds nothing to it.

    Args:
        weights: One number per adapter name.

    Raises:
        GraspError: A weight is missing, is not finite or is of no adapter; or ranks differ and must not.
    """
    names = [adapter.name for adapter in adapters]
    if weights.keys() != set(names) or not all(map(math.isfinite, weights.values())):
        raise GraspError(f"need one finite weight for each of the adapters {names}, got {dict(weights)}")
    sites, parts = {}, {}
    for site in site_names(adapters):
        owners = {adapter.name: adapter.sites[site] for adapter in adapters if site in adapter.sites}
        if exact:
            weighted = {a: replace(f, B=weights[a] * f.B) for a, f in owners.items()}
            sites[site], parts[site] = stack_factors(weighted)
            continue
        _check_ranks(site, owners)
        scaling = max(factors.scaling for factors in owners.values())
        weighted = {}
        for name, own in owners.items():
            w = weights[name] * math.sqrt(own.scaling / scaling)
            weighted[name] = replace(own, A=w * own.A, B=w * own.B, scaling=scaling)
        sites[site], parts[site] = add_factors(weighted)
    return sites, parts


def _check_ranks(site: str, owners: Mapping[str, Factors]) -> None:
    (first, expected), *rest = owners.items()
    for name, factors in rest:
        if factors.rank != expected.rank:
            raise GraspError(
                f"LoRAHub adds factors, which needs equal ranks, but at {site} adapter {first!r} has rank "
                f"{expected.rank} and {name!r} has {factors.rank}; leave one out, or use exact "
                f"(lorahub.exact=true)"
            )


@torch.no_grad()
def place_factors(model: Any, sites: Mapping[str, Factors], adapter: str = "default") -> None:
    """Overwrites an adapter of a loaded PEFT model; ranks and scalings must be those it was loaded with."""
    for site, factors in sites.items():
        layer = model.base_model.model.get_submodule(site)
        if factors.embedding:
            layer.lora_embedding_A[adapter].copy_(factors.A)
            layer.lora_embedding_B[adapter].copy_(factors.B)
        else:
            layer.lora_A[adapter].weight.copy_(factors.A)
            layer.lora_B[adapter].weight.copy_(factors.B)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One call of the objective: `objective` is `loss` + penalty * mean |w|."""

    weights: dict[str, float]
    loss: float
    objective: float


@dataclass(frozen=True, slots=True)
class Search:
    """The evaluation with the lowest objective, the first of equals, and all of them in their order."""

    best: Evaluated
    history: tuple[Evaluated, ...]


class _Spent(Exception):
    """The budget is; it ends the optimiser from within the objective."""


def search_weights(
    loss: Callable[[Mapping[str, float]], float],
    names: Sequence[str],
    *,
    budget: int = 40,
    bound: float = 1.5,
    penalty: float = 0.05,
) -> Search:
    """Minimises `loss(w) + penalty * mean |w|` over w in [-bound, bound] from w = 0 (Huang et al., 2024).

    `loss` is called at most `budget` times, first at the start, and not after the search has converged to a
    thousandth of the bound. Nothing is drawn at random: the same losses give the same search.

    The optimiser is SciPy's COBYLA. Within 40 calls on a real objective (`benchmarks/lorahub.py`) it was the
    best, or as good as the best, with 2 adapters and with 20; Optuna's CMA-ES was behind with both, and
    COBYQA spends 41 calls on its first model of 20 weights. Nevergrad's NGOpt, the authors' choice, hands
    the search to the same COBYLA with the same first step.

    Raises:
        GraspError: The arguments leave nothing to search, or a loss is not finite.
    """
    from scipy.optimize import minimize

    if not names or len(set(names)) < len(names) or budget < 1 or bound <= 0:
        raise GraspError(
            f"the search needs different names, a budget and a bound, got {list(names)}, {budget}, {bound:g}"
        )
    history: list[Evaluated] = []

    def objective(point: Any) -> float:
        if len(history) == budget:
            raise _Spent
        # COBYLA may step over its bounds by a little.
        weights = {n: min(max(float(w), -bound), bound) for n, w in zip(names, point, strict=True)}
        value = loss(weights)
        if not math.isfinite(value):
            raise GraspError(f"the loss is {value} with the weights {weights}; take a smaller lorahub.bound")
        size = sum(map(abs, weights.values())) / len(names)
        history.append(Evaluated(weights, value, value + penalty * size))
        return history[-1].objective

    with suppress(_Spent):
        minimize(
            objective,
            [0.0] * len(names),
            method="COBYLA",
            bounds=[(-bound, bound)] * len(names),
            # SciPy wants as many calls as the first simplex needs, whatever the budget.
            options={"rhobeg": bound / 3, "tol": bound / 1000, "maxiter": max(budget, len(names) + 2)},
        )
    return Search(min(history, key=lambda evaluated: evaluated.objective), tuple(history))


def optimiser() -> str:
    """What `search_weights` searches with, and its version."""
    return f"SciPy {version('scipy')} COBYLA"
