"""An adapter for another loader, of lower rank or in another number format; checked before it appears."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from grasp_lora.errors import GraspError, check_choice
from grasp_lora.merging.compress import Lost, compressed, difference
from grasp_lora.merging.hub import CONFIG_FILE, WEIGHTS_FILE, find_adapter
from grasp_lora.merging.parts import PARTS_FILE
from grasp_lora.merging.reading import Adapter, Factors, read_adapters, read_settings, read_tensors
from grasp_lora.merging.writing import new_folder, write_adapter

__all__ = ["DTYPES", "VLLM_RANKS", "DType", "Exported", "Loader", "export_adapter"]

Loader = Literal["peft", "vllm", "llama.cpp"]
DType = Literal["bf16", "fp16", "fp32"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what its max_lora_rank may be
_TOLERANCES = {"bf16": 1e-2, "fp16": 2e-3, "fp32": 1e-5}  # of a delta W's norm


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of an adapter.

    Attributes:
        ranks: Of each site, as written.
        lost: By site, where the rank was lowered.
        apart: The largest difference of a site's delta W, as written, from that of the original; a share of
            its norm.
        as_it_was: Whether its files were only copied.
    """

    ranks: dict[str, int]
    lost: dict[str, Lost]
    apart: float
    as_it_was: bool = False

    @property
    def energies(self) -> list[float]:
        """What each site lost of its squared norm; [0] where no rank was lowered."""
        return [one.energy for one in self.lost.values()] or [0.0]


def export_adapter(
    adapter: str | Path,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    loader: Loader = "peft",
    dtype: DType | None = None,
    extras: Sequence[str] = (PARTS_FILE,),
    finish: Callable[[Path, Exported], None] | None = None,
) -> Exported:
    """Write a LoRA adapter into `out`, a new folder that appears only when it is complete and was checked.

    With nothing else asked for, or where no rank falls, its files are copied. A lower rank is the nearest one
    (`merging.compress`). The check reads what was written: each delta W is that of the original, but for the
    energy that was given up and for the rounding of the number format (1e-5 of its norm in fp32, 2e-3 in
    fp16, 1e-2 in bf16).

    vLLM and llama.cpp read one rank and one alpha for the whole adapter. For these the scaling is folded into
    B, and every module gets the same rank, A and B being filled up with zeros: for vLLM to one of
    `VLLM_RANKS`, for llama.cpp to the largest there is.

    Args:
        rank: Lower the rank of every module to this.
        energy: Lower it as far as this share of each delta W's squared Frobenius norm is kept.
        dtype: Of the tensors; None: as they are, or fp32 where they are written anew.
        extras: Files beside the adapter that go along where its rows stay what they are.
        finish: Looks at the folder before it appears, and may add to it; what it raises removes the folder.

    Raises:
        GraspError: As `read_adapters`; or the loader cannot take the adapter; or the check failed.
    """
    check_choice("loader", loader, Loader)
    folder = find_adapter(adapter)
    with new_folder(Path(out)) as made:
        if loader == "peft" and rank is None and energy is None and dtype is None:
            done = _copied(str(adapter), folder, made, extras)
        else:
            done = _written(str(adapter), folder, made, rank, energy, loader, dtype, extras)
        if finish is not None:
            finish(made, done)
    return done


def _written(
    name: str,
    folder: Path,
    made: Path,
    rank: int | None,
    energy: float | None,
    loader: Loader,
    dtype: DType | None,
    extras: Sequence[str],
) -> Exported:
    check_choice("dtype", dtype or "fp32", DType)
    (read,) = read_adapters({name: folder})
    sites, lost = dict(read.sites), dict[str, Lost]()
    if rank is not None or energy is not None:
        sites, lost = compressed(sites, rank, energy)
        if not lost and loader == "peft" and dtype is None:
            return _copied(name, folder, made, extras)
    dtype = dtype or "fp32"
    if loader != "peft":
        _refuse_for(loader, read)
        common = _common_rank(loader, max(factors.rank for factors in sites.values()))
        sites = {site: _plain(factors, common) for site, factors in sites.items()}
    elif not lost:
        _copy(folder, made, extras)
    kind = DTYPES[dtype]
    sites = {site: replace(one, A=one.A.to(kind), B=one.B.to(kind)) for site, one in sites.items()}
    for site, one in sites.items():
        if not (one.A.isfinite().all() and one.B.isfinite().all()):
            raise GraspError(f"{name}: {site} has values too large for {dtype}; use another --dtype")
    write_adapter(made, sites, [read])
    apart = _check(name, read, made, lost, dtype)
    return Exported({site: factors.rank for site, factors in sites.items()}, lost, apart)


def _copied(name: str, folder: Path, made: Path, extras: Sequence[str]) -> Exported:
    """All files as they are, once they are known to be whole."""
    read_settings(name, folder)
    read_tensors(name, folder)
    _copy(folder, made, (CONFIG_FILE, WEIGHTS_FILE, *extras))
    return Exported({}, {}, 0.0, as_it_was=True)


def _copy(folder: Path, made: Path, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, made / name)


def _refuse_for(loader: Loader, read: Adapter) -> None:
    """What read_adapters lets through, and other loaders would read wrongly or not at all."""
    embeddings = [site for site, factors in read.sites.items() if factors.embedding]
    what: Any = None
    if embeddings:
        what = f"adapts an embedding ({embeddings[0]})"
    elif read.others:
        what = f"stores {min(read.others)} beside its LoRA factors"
    elif read.config.fan_in_fan_out:
        what = "adapts modules that store their weights transposed (fan_in_fan_out)"
    if what:
        raise GraspError(
            f"{read.name} {what}, which {loader} does not read from an adapter: merge it into the base model "
            "(--merge-into-base)"
        )


def _common_rank(loader: Loader, largest: int) -> int:
    if loader == "llama.cpp":
        return largest
    if largest > VLLM_RANKS[-1]:
        raise GraspError(
            f"vLLM takes ranks up to {VLLM_RANKS[-1]}, and this adapter's is {largest}: lower it with --rank "
            f"{VLLM_RANKS[-1]}, or less"
        )
    return next(rank for rank in VLLM_RANKS if rank >= largest)


def _plain(factors: Factors, rank: int) -> Factors:
    """The same delta W with a scaling of one: s B in B's place, rows and columns of zeros up to `rank`."""
    more = rank - factors.rank
    a = torch.cat([factors.A, factors.A.new_zeros(more, factors.A.shape[1])], dim=0)  # (rank, in)
    b = torch.cat([factors.scaling * factors.B, factors.B.new_zeros(factors.B.shape[0], more)], dim=1)
    return replace(factors, A=a, B=b, scaling=1.0)


def _check(name: str, read: Adapter, made: Path, lost: dict[str, Lost], dtype: DType) -> float:
    """The largest relative difference of a delta W on disk from the original's."""
    (written,) = read_adapters({name: made})
    assert written.sites.keys() == read.sites.keys()
    worst = 0.0
    for site, factors in read.sites.items():
        apart = difference(factors, written.sites[site])
        given_up = math.sqrt(lost[site].energy) if site in lost else 0.0
        allowed = given_up + _TOLERANCES[dtype]
        if not apart <= allowed:  # nor where it is not a number
            raise GraspError(
                f"{name}: at {site} delta W in {dtype} differs from the original's by {apart:.1e} of its "
                f"norm, where {allowed:.1e} is allowed; nothing was written. Use another --dtype"
            )
        worst = max(worst, apart)
    return worst
