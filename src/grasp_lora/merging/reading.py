"""Reading plain LoRA adapters from disk, with every doubt refused.

Only plain LoRA can be merged by its factors. An adapter whose config turns on anything else (DoRA, biases,
fully trained modules, whatever a later PEFT may add) is refused by name rather than merged wrongly.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from grasp_lora.errors import GraspError
from grasp_lora.merging.hostile import refuse_hostile
from grasp_lora.merging.hub import CONFIG_FILE, WEIGHTS_FILE, find_adapter

__all__ = [
    "CONFIG_FILE",
    "SELECTION",
    "SHARED",
    "WEIGHTS_FILE",
    "Adapter",
    "Factors",
    "base_of",
    "read_adapters",
    "read_settings",
    "read_tensors",
    "same_base_model",
    "site_names",
]

PICKLED_FILE = "adapter_model.bin"

# What selects the adapted modules; kept word for word where all adapters agree.
SELECTION = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
# What must not differ between adapters; an empty value fits everything.
SHARED = ("base_model_name_or_path", "revision", "task_type")
_READ = {
    *SELECTION, *SHARED, "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout",
    "fan_in_fan_out", "auto_mapping",
}  # fmt: skip
# Says nothing about delta_W, or only together with a setting that is refused itself.
_HARMLESS = {
    "peft_type", "peft_version", "inference_mode", "init_lora_weights", "eva_config", "qalora_group_size",
    "megatron_core",
}  # fmt: skip
# The other initialisations (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the base model's weights.
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")

_FACTOR = re.compile(
    r"base_model\.model\.(?P<site>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.weight)?"
)


@dataclass(frozen=True, slots=True)
class Factors:
    """One site's LoRA pair: `delta_W = scaling * B @ A`; for an embedding, the transpose of that.

    A: (r, in), B: (out, r), float32 (or float64); an embedding's `in` is its vocabulary.
    """

    A: Tensor
    B: Tensor
    scaling: float
    embedding: bool = False

    @property
    def rank(self) -> int:
        return self.A.shape[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A plain LoRA adapter: its `peft.LoraConfig`, its factors by site (module path in the base model), and
    what PEFT stores beside them (`others`: base embeddings, under their names in the file).
    """

    name: str
    config: Any
    sites: dict[str, Factors]
    others: dict[str, Tensor]


def read_adapters(adapters: Mapping[str, str | Path]) -> list[Adapter]:
    """Reads adapters, by name, and checks that they can stand on one base model.

    Each is a folder, or OWNER/NAME[@REVISION] on the model hub.

    Raises GraspError for a missing or unreadable file, pickled weights, anything but plain LoRA, different
    base models, and shapes that disagree with the config or between adapters.
    """
    if not adapters:
        raise GraspError("no adapter to merge; name at least one adapter folder")
    loaded = [_read_adapter(name, _found(name, folder)) for name, folder in adapters.items()]
    first = loaded[0]
    for other in loaded[1:]:
        for key in SHARED:
            ours, theirs = getattr(first.config, key), getattr(other.config, key)
            if not _agree(key, ours, theirs):
                raise GraspError(
                    f"adapters {first.name!r} and {other.name!r} have different {key}: {ours!r} and "
                    f"{theirs!r}; only adapters of one base model can be merged (if it is the same model "
                    f"under two names, write one name into both {CONFIG_FILE})"
                )
    for site in site_names(loaded):
        _check_shapes(
            site, {adapter.name: adapter.sites[site] for adapter in loaded if site in adapter.sites}
        )
    return loaded


def base_of(folder: Path) -> str | None:
    """The base model that any PEFT adapter says it was trained on; None where it does not say.

    Raises:
        GraspError: There is no adapter's config.
    """
    base: str | None = read_settings(str(folder), folder).get("base_model_name_or_path")
    return base or None


def site_names(adapters: Sequence[Adapter]) -> list[str]:
    """Every site that any of the adapters has, sorted."""
    return sorted(set().union(*(adapter.sites for adapter in adapters)))


def _found(name: str, adapter: str | Path) -> Path:
    try:
        return find_adapter(adapter)
    except GraspError as error:
        raise GraspError(f"adapter {name!r}: {error}") from None


def _read_adapter(name: str, folder: Path) -> Adapter:
    config = _read_config(name, folder)
    tensors = read_tensors(name, folder)
    factors: dict[str, dict[str, Tensor]] = {}
    embeddings, others = set(), {}
    for key, tensor in tensors.items():
        if ".lora_" not in key:
            others[key] = tensor
        elif (match := _FACTOR.fullmatch(key)) and ".base_layer" not in key:
            # PEFT computes with float32 factors too, whatever is stored; torch promotes no float8.
            narrow = tensor.dtype.itemsize < 4
            wide = tensor.float() if narrow else tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            factors.setdefault(match["site"], {})[match["factor"]] = wide
            if match["embedding"]:
                embeddings.add(match["site"])
        else:
            raise GraspError(
                f"adapter {name!r}: {folder / WEIGHTS_FILE} holds {key}, which plain LoRA does not have"
            )
    if not factors:
        raise GraspError(f"adapter {name!r}: {folder / WEIGHTS_FILE} holds no LoRA factors")
    sites = {
        site: _site_factors(name, site, pair, config, site in embeddings)
        for site, pair in sorted(factors.items())
    }
    return Adapter(name, config, sites, others)


def _read_config(name: str, folder: Path) -> Any:
    """The `LoraConfig` in `folder`, of which only the settings in `_READ` are kept."""
    from peft import LoraConfig

    path, settings = folder / CONFIG_FILE, read_settings(name, folder)
    _refuse_other_than_plain_lora(name, path, settings)
    try:
        return LoraConfig(**{key: value for key, value in settings.items() if key in _READ})
    except (TypeError, ValueError, AttributeError) as error:
        raise GraspError(f"adapter {name!r}: {path} is not a valid LoRA config ({error})") from error


def read_settings(name: str, folder: Path) -> dict[str, Any]:
    """An adapter's config as it stands; GraspError where it is missing, damaged or hostile."""
    path = folder / CONFIG_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        raise GraspError(
            f"adapter {name!r}: {path} is missing; give the folder of a saved PEFT adapter"
        ) from None
    except (ValueError, OSError, RecursionError) as error:
        raise GraspError(f"adapter {name!r}: {path} cannot be read as JSON ({error})") from error
    refuse_hostile(f"adapter {name!r}: {path}", settings)
    return settings


def _refuse_other_than_plain_lora(name: str, path: Path, settings: dict[str, Any]) -> None:
    where = f"adapter {name!r}: {path}"
    if (kind := settings.get("peft_type")) != "LORA":
        raise GraspError(
            f"{where} has peft_type {kind!r}; only LoRA adapters (peft_type 'LORA') can be merged"
        )
    if (init := settings.get("init_lora_weights", True)) not in _PLAIN_INITS:
        raise GraspError(
            f"{where} has init_lora_weights {init!r}, whose factors fit only a base model that it changed; "
            f"save the adapter again with PEFT's "
            f"save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    for key, value in settings.items():
        if key not in _READ | _HARMLESS and value not in (None, False, "none", [], {}):
            raise GraspError(
                f"{where} sets {key} to {value!r}; only plain LoRA (delta_W = s B A and nothing else) can be "
                f"merged, so train the adapter without {key}"
            )


def read_tensors(name: str, folder: Path) -> dict[str, Tensor]:
    """All tensors by their names in the file; GraspError: missing, damaged, pickled or not finite ones."""
    path = folder / WEIGHTS_FILE
    if not path.exists() and (folder / PICKLED_FILE).exists():
        raise GraspError(
            f"adapter {name!r}: {folder} holds pickled weights ({PICKLED_FILE}), which are never read; load "
            f"the adapter with PEFT where you trust it and save it again with save_pretrained"
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise GraspError(
            f"adapter {name!r}: {path} is missing; give the folder of a saved PEFT adapter"
        ) from None
    except (SafetensorError, OSError) as error:
        raise GraspError(
            f"adapter {name!r}: {path} cannot be read ({error}); save the adapter again"
        ) from error
    for key, tensor in tensors.items():
        if not tensor.double().isfinite().all():
            raise GraspError(f"adapter {name!r}: {key} holds values that are not finite: train it again")
    return tensors


def _site_factors(name: str, site: str, pair: dict[str, Tensor], config: Any, embedding: bool) -> Factors:
    """Rank and scaling as PEFT resolves them for the module `site`, checked against the tensors."""
    from peft.utils.other import get_pattern_key

    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(ranks, site), config.r)
    alpha = alphas.get(get_pattern_key(alphas, site), config.lora_alpha)
    shapes = {factor: tuple(tensor.shape) for factor, tensor in sorted(pair.items())}
    if [*shapes] != ["A", "B"] or any(len(shape) != 2 for shape in shapes.values()):
        raise GraspError(
            f"adapter {name!r}: site {site} needs one matrix A and one matrix B, it has {shapes}"
        )
    if not shapes["A"][0] == shapes["B"][1] == rank:
        raise GraspError(
            f"adapter {name!r}: the config says rank {rank} at {site}, the tensors have shapes {shapes}"
        )
    if not rank:
        raise GraspError(f"adapter {name!r}: the rank at {site} is 0, which changes nothing; train it again")
    if not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
        raise GraspError(f"adapter {name!r}: lora_alpha must be a positive number, it is {alpha!r} at {site}")
    scaling = alpha / math.sqrt(rank) if config.use_rslora else alpha / rank
    return Factors(pair["A"], pair["B"], scaling, embedding)


def _check_shapes(site: str, owners: Mapping[str, Factors]) -> None:
    kinds = {name: (f.B.shape[0], f.A.shape[1], f.embedding) for name, f in owners.items()}
    (first, expected), *rest = kinds.items()
    for name, kind in rest:
        if kind != expected:
            raise GraspError(
                f"adapters {first!r} and {name!r} disagree at {site}: (out, in, embedding) is {expected} and "
                f"{kind}; they were trained on different base models"
            )


def _agree(key: str, ours: str | None, theirs: str | None) -> bool:
    if not ours or not theirs or ours == theirs:
        return True
    if key == "revision":
        return "main" in (ours, theirs)
    return key == "base_model_name_or_path" and same_base_model(ours, theirs)


def same_base_model(one: str, other: str) -> bool:
    """Whether two names may be one base model: hub names `owner/name`, or folders, here or on another
    machine.

    Two folders that are here must be the same one. A folder elsewhere, or a hub name, is known by its last
    part.
    """
    paths = Path(one), Path(other)
    if one == other or all(path.is_dir() for path in paths):
        return paths[0].resolve() == paths[1].resolve()
    if not any(path.is_dir() or path.is_absolute() for path in paths):
        return False  # two hub names
    return paths[0].name.lower() == paths[1].name.lower()
