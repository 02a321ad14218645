"""PEFT's own ways to combine adapters, by their PEFT names."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from grasp_lora.errors import GraspError
from grasp_lora.merging.parts import Part, write_parts
from grasp_lora.merging.reading import Adapter, Factors, read_adapters, site_names
from grasp_lora.merging.sum import MERGED
from grasp_lora.merging.writing import new_folder, write_adapter

__all__ = ["PEFT_METHODS", "check_peft", "combine_with_peft"]

_PRUNING = ("ties", "dare_ties", "dare_linear", "magnitude_prune")
PEFT_METHODS = ("linear", "svd", *_PRUNING, *(f"{method}_svd" for method in _PRUNING))
_COMBINED = "combined"


def combine_with_peft(
    adapters: Mapping[str, str | Path],
    out: Path,
    method: str,
    *,
    weights: Mapping[str, float] | None = None,
    density: float | None = None,
    majority_sign_method: Literal["total", "frequency"] = "total",
    rank: int | None = None,
    seed: int = 0,
) -> None:
    """Combines at least two LoRA adapters with PEFT's `add_weighted_adapter` into a plain adapter in `out`.

    `method` is one of `PEFT_METHODS`:

    - `linear`: `(sum_a sqrt(w_a s_a) B_a)(sum_a sqrt(w_a s_a) A_a)`; with equal scalings and weights of one
      the same delta_W as `merge_adapters(..., "linear")`.
    - `ties` (Yadav et al., 2023), `dare_ties`, `dare_linear` (Yu et al., 2024), `magnitude_prune`: the
      method applied to the factors A and B, each for itself. Ranks must be equal wherever adapters meet.
    - `svd` and the `_svd` forms of the four: the method applied to delta_W (out, in), then a truncated SVD
      to `rank` (PEFT's default: the largest rank of any adapter). Ranks may differ. One SVD of a full
      matrix per site: long on a CPU for a model of billions of parameters.

    `weights` has one number per adapter name, all 1 by default. `density` in (0, 1] is the share of entries
    that the pruning methods keep. `dare_*` draw at random from `seed`; no global generator is changed.

    PEFT folds the scaling into the factors (so `lora_alpha = r` here) and mixes the adapters' rows:
    `parts.json` has one part per site. The base model is not needed, because PEFT combines factors only:
    the adapters are put on stand-ins of the modules' shapes. So no model of the user's is touched, and PEFT
    cannot miss a site because `target_modules` or `layers_to_transform` differ between the adapters.

    Raises GraspError, naming adapter and setting, for bad arguments and for anything but plain LoRA on one
    base model.
    """
    _check_arguments(adapters, method, weights, density, majority_sign_method, rank)
    with new_folder(Path(out)) as folder:
        loaded = read_adapters(adapters)
        if not method.endswith("svd"):
            _check_ranks(loaded, method)
        # A stand-in's name cannot have the dots of a module path.
        keys = {f"site{number}": site for number, site in enumerate(site_names(loaded))}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach GPU generators too
            model = _stand_in_model(loaded, keys)
            model.add_weighted_adapter(
                [_peft_name(number) for number in range(len(loaded))],
                [1.0 if weights is None else weights[name] for name in adapters],
                _COMBINED,
                combination_type=method,
                svd_rank=rank,
                svd_full_matrices=False,
                density=density,
                majority_sign_method=majority_sign_method,
            )
        layers = model.base_model.model
        sites = {site: _combined_factors(layers[key]) for key, site in keys.items()}
        write_adapter(folder, sites, loaded)
        write_parts(folder, {site: (Part(MERGED, 0, factors.rank),) for site, factors in sites.items()})


def check_peft(method: str, weights: Mapping[str, float] | None) -> None:
    """Whether the PEFT that is installed combines so.

    Raises:
        GraspError: It is one that does it wrongly: before 0.21 the svd methods scale what they combine twice,
            before 0.19 the others take a negative weight for a positive one.
    """
    installed = tuple(int(number) for number in version("peft").split(".")[:2])
    if method.endswith("svd") and installed < (0, 21):
        raise GraspError(
            f"{method} needs PEFT 0.21 or newer, which scales its result once: pip install -U peft"
        )
    if weights is not None and min(weights.values()) < 0 and installed < (0, 19):
        raise GraspError(f"{method} needs PEFT 0.19 or newer for negative weights: pip install -U peft")


def _check_arguments(
    adapters: Mapping[str, str | Path],
    method: str,
    weights: Mapping[str, float] | None,
    density: float | None,
    majority_sign_method: str,
    rank: int | None,
) -> None:
    if method not in PEFT_METHODS:
        raise GraspError(f"unknown PEFT combination {method!r}; use one of {', '.join(PEFT_METHODS)}")
    if len(adapters) < 2:
        raise GraspError(
            f"{method} needs at least two adapters, got {len(adapters)} (PEFT would ignore the method)"
        )
    if weights is not None and weights.keys() != adapters.keys():
        raise GraspError(f"weights must name the adapters {sorted(adapters)}, they name {sorted(weights)}")
    prunes = method.removesuffix("_svd") in _PRUNING
    if prunes and (density is None or not 0 < density <= 1):
        raise GraspError(f"{method} needs a density in (0, 1], the share of entries to keep; got {density}")
    if not prunes and density is not None:
        raise GraspError(f"{method} prunes nothing, so density={density} has no effect; leave it out")
    if rank is not None and not method.endswith("svd"):
        raise GraspError(f"rank={rank} is only for the svd methods; {method} keeps the adapters' rank")
    if rank is not None and rank < 1:
        raise GraspError(f"rank must be at least 1, got {rank}")
    if majority_sign_method not in ("total", "frequency"):
        raise GraspError(f"majority_sign_method must be 'total' or 'frequency', got {majority_sign_method!r}")
    check_peft(method, weights)


def _check_ranks(adapters: list[Adapter], method: str) -> None:
    for site in site_names(adapters):
        ranks = {adapter.name: adapter.sites[site].rank for adapter in adapters if site in adapter.sites}
        if len(set(ranks.values())) > 1:
            raise GraspError(
                f"{method} needs equal ranks, but at {site} they are {ranks}; use "
                f"{'svd' if method == 'linear' else method + '_svd'} or the sum"
            )


def _stand_in_model(adapters: list[Adapter], keys: Mapping[str, str]) -> Any:
    """A PeftModel over modules that have only the sites' shapes, with all adapters' factors loaded.

    `keys` maps the modules' names to the sites.
    """
    from peft import LoraConfig, get_peft_model

    owners = {site: adapter.sites[site] for adapter in adapters for site in adapter.sites}
    model: Any = nn.ModuleDict({key: _stand_in(owners[site]) for key, site in keys.items()})
    # PEFT compares and allocates by the largest rank; a site's own rank is given by the pattern.
    largest = max(factors.rank for adapter in adapters for factors in adapter.sites.values())
    for number, adapter in enumerate(adapters):
        mine = {key: adapter.sites[site] for key, site in keys.items() if site in adapter.sites}
        config = LoraConfig(
            r=largest,
            target_modules=list(mine),
            rank_pattern={key: factors.rank for key, factors in mine.items()},
            alpha_pattern={key: factors.scaling * factors.rank for key, factors in mine.items()},
        )
        name = _peft_name(number)
        if number == 0:
            model = get_peft_model(model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        for key, factors in mine.items():
            _set_factors(model.base_model.model[key], name, factors)
    return model


def _peft_name(number: int) -> str:
    return f"adapter{number}"


def _stand_in(factors: Factors) -> nn.Module:
    """A module with the site's sizes and a weight of one number, whose device and dtype PEFT looks at."""
    shape = (factors.B.shape[0], factors.A.shape[1])
    module: nn.Module
    if factors.embedding:
        module = nn.Embedding(1, 1)
        module.embedding_dim, module.num_embeddings = shape
    else:
        module = nn.Linear(1, 1, bias=False)
        module.out_features, module.in_features = shape
    return module


def _set_factors(layer: Any, name: str, factors: Factors) -> None:
    if factors.embedding:
        layer.lora_embedding_A[name].data, layer.lora_embedding_B[name].data = factors.A, factors.B
    else:
        layer.lora_A[name].weight.data, layer.lora_B[name].weight.data = factors.A, factors.B


def _combined_factors(layer: Any) -> Factors:
    """What PEFT combined, with the scaling that it meant: one, as the adapters' own went into the factors."""
    if _COMBINED in layer.lora_embedding_A:
        return Factors(
            layer.lora_embedding_A[_COMBINED].data, layer.lora_embedding_B[_COMBINED].data, 1.0, True
        )
    return Factors(layer.lora_A[_COMBINED].weight.data, layer.lora_B[_COMBINED].weight.data, 1.0)
