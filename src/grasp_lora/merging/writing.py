"""Writing a merged adapter as a plain PEFT adapter, whole or not at all."""

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mode
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from grasp_lora.errors import GraspError
from grasp_lora.merging.reading import CONFIG_FILE, SELECTION, SHARED, WEIGHTS_FILE, Adapter, Factors

__all__ = ["new_folder", "other_loaders", "write_adapter"]


def write_adapter(folder: Path, sites: Mapping[str, Factors], adapters: Sequence[Adapter]) -> None:
    """Writes `sites` as an adapter that PEFT alone loads, on the base model of `adapters`.

    Each site's rank and scaling s go to the config: `r` and `lora_alpha = s * r`, through `rank_pattern` and
    `alpha_pattern` where sites differ. `target_modules` keeps the short form where all adapters share it and
    all sites, otherwise it lists full module paths. `lora_dropout` and `fan_in_fan_out` are the first
    adapter's.
    """
    from peft import LoraConfig

    ranks = {site: factors.rank for site, factors in sites.items()}
    alphas = {site: _as_number(factors.scaling * factors.rank) for site, factors in sites.items()}
    rank, alpha = mode(ranks.values()), mode(alphas.values())
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type, unused-ignore]  # PEFT divides it, a float is fine
        rank_pattern={_exactly(site): n for site, n in ranks.items() if n != rank},
        alpha_pattern={_exactly(site): n for site, n in alphas.items() if n != alpha},
        lora_dropout=adapters[0].config.lora_dropout,
        fan_in_fan_out=adapters[0].config.fan_in_fan_out,
        auto_mapping=adapters[0].config.auto_mapping,
        inference_mode=True,
        **{key: next(filter(None, (getattr(a.config, key) for a in adapters)), None) for key in SHARED},
        **_selection(sites, adapters),
    )
    for key in ("target_modules", "exclude_modules"):
        if isinstance(chosen := getattr(config, key), set):
            setattr(config, key, sorted(chosen))  # a set's order differs from run to run
    config.save_pretrained(str(folder))

    tensors = _common_others(adapters)
    for site, factors in sites.items():
        kind, suffix = ("embedding_", "") if factors.embedding else ("", ".weight")
        tensors[f"base_model.model.{site}.lora_{kind}A{suffix}"] = factors.A.contiguous()
        tensors[f"base_model.model.{site}.lora_{kind}B{suffix}"] = factors.B.contiguous()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def other_loaders(folder: Path) -> str:
    """What other programs' loaders would get wrong about an adapter in silence, or "" where nothing is known.

    vLLM's and llama.cpp's read one rank and one alpha for the whole adapter; PEFT's patterns they ignore.
    """
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if not (config.get("rank_pattern") or config.get("alpha_pattern")):
        return ""
    return (
        f"{folder} has modules of different ranks or scalings (rank_pattern, alpha_pattern): PEFT loads "
        "it, but vLLM and llama.cpp ignore these patterns and would compute with wrong weights: "
        "`grasp export --for` writes it for them"
    )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling of `out` that takes its name when the block ends, and vanishes if it raises.

    Where `out` is an empty folder, it stays the same folder, and the files go into it. Raises GraspError if
    `out` already holds something; hidden files are in nobody's way.
    """
    if out.exists() and (not out.is_dir() or any(not one.name.startswith(".") for one in out.iterdir())):
        raise GraspError(f"{out} already exists; choose another folder or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        yield folder
        if not out.exists():
            os.replace(folder, out)
            return
        for path in folder.iterdir():
            os.replace(path, out / path.name)


def _common_others(adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """Embeddings stored beside the factors: kept, as long as all adapters that have them agree."""
    others: dict[str, Tensor] = {}
    for adapter in adapters:
        for key, tensor in adapter.others.items():
            kept = others.setdefault(key, tensor)
            if kept.dtype != tensor.dtype or not torch.equal(kept, tensor):
                raise GraspError(
                    f"adapter {adapter.name!r}: its stored {key} differs from another adapter's; adapters "
                    f"that were saved with different base embeddings cannot be merged"
                )
    return others


def _selection(sites: Mapping[str, Factors], adapters: Sequence[Adapter]) -> dict[str, Any]:
    first = adapters[0]
    shared = all(
        adapter.sites.keys() == sites.keys()
        and all(getattr(adapter.config, key) == getattr(first.config, key) for key in SELECTION)
        for adapter in adapters
    )
    return (
        {key: getattr(first.config, key) for key in SELECTION}
        if shared
        else {"target_modules": sorted(sites)}
    )


def _exactly(site: str) -> str:
    """A pattern key that PEFT matches with this module only (it appends `$` and lets any path precede)."""
    return "^" + re.escape(site)


def _as_number(value: float) -> int | float:
    return round(value) if math.isclose(value, round(value), rel_tol=1e-12) else value
