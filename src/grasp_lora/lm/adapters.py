"""LoRA adapters on a backbone, through PEFT."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from grasp_lora.errors import GraspError
from grasp_lora.lm.quantization import quantization_of
from grasp_lora.merging.reading import CONFIG_FILE, WEIGHTS_FILE, read_settings
from grasp_lora.settings import LATER, Count, Positive, Settings

__all__ = [
    "Lora",
    "adapter_weights",
    "load_adapter",
    "load_beside",
    "merge_into_base",
    "new_adapter",
    "save_adapter",
    "without_card",
]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
_CHANGES = "changes the base model's weights, which other adapters and every evaluation share"
_OTHER_INITS = {
    "pissa": _CHANGES, "olora": _CHANGES, "corda": _CHANGES, "loftq": _CHANGES, "lora_ga": _CHANGES,
    "eva": "needs passes over data before training, which are not made here",
    "mica": "freezes B, which is to be trained and pruned",
}  # fmt: skip


class Lora(Settings):
    """Shape of a new adapter (GRASP Table 7)."""

    r: Count = 8
    """Rank of an adapter before merging; the sum of two has twice as much."""
    alpha: float = 32.0
    """Scaling times rank: an adapter's part is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of an adapter's inputs that training leaves out at random."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = ("q_proj", "v_proj")
    """Ends of the names of the modules that get an adapter."""
    use_rslora: Annotated[bool, LATER] = False
    """Whether an adapter's part is multiplied by alpha / sqrt(r) instead."""
    rank_pattern: Annotated[Mapping[Pattern, Count], LATER] = {}
    """Other ranks of some modules, by the ends of their names or regular expressions; of several that fit
    one module, the first by the alphabet."""
    alpha_pattern: Annotated[Mapping[Pattern, Positive], LATER] = {}
    """Other alphas, likewise."""
    init_lora_weights: Annotated[bool | Literal["gaussian", "orthogonal"], LATER] = True
    """How A and B begin: A at random and B at zero (true), A normal (gaussian), both at random (false), or at
    random with B A = 0 (orthogonal, of even ranks)."""
    bias: Annotated[Literal["none"], LATER] = "none"
    """Biases are not trained: a merge has no place for those of several adapters."""

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _as_peft_reads_them(cls, pattern: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(sorted(pattern.items()))  # and saves them: of several that fit, the first counts

    @field_validator("init_lora_weights", mode="before")
    @classmethod
    def _leaves_the_base_alone(cls, init: Any) -> Any:
        if isinstance(init, str) and (why := _OTHER_INITS.get(init.partition("_niter_")[0])):
            raise ValueError(f"{init} {why}: take true, gaussian or orthogonal")
        return init

    @field_validator("bias", mode="before")
    @classmethod
    def _no_bias(cls, bias: Any) -> Any:
        if bias in ("all", "lora_only"):
            raise ValueError(
                f"{bias} trains biases of the base model: a sum of adapters has one set of them, masks are "
                "of LoRA factors, other loaders ignore them. Only none is merged, pruned and exported"
            )
        return bias


def new_adapter(model: nn.Module, lora: Lora) -> Any:
    """A fresh trainable LoRA adapter on a frozen model.

    PEFT keeps adapter weights in float32 whatever the model's type. Its initialisation draws from the
    global generator: seed that (`transformers.set_seed`) for a repeatable adapter.

    Raises:
        GraspError: The model has no such modules, or none that a pattern fits, or none of such a rank.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils.other import get_pattern_key

    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type, unused-ignore]  # PEFT divides it, a float is fine
        lora_dropout=lora.dropout,
        target_modules=modules,
        task_type="CAUSAL_LM",
        use_rslora=lora.use_rslora,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        init_lora_weights=lora.init_lora_weights,
    )
    there = _linear(model)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:  # no module of that name, or no such beginning of this rank
        raise GraspError(
            f"cannot place LoRA on {modules} (lora.target_modules): {error} The model has {', '.join(there)}"
        ) from error
    sites = [name for name, module in adapted.base_model.model.named_modules() if hasattr(module, "lora_A")]
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(lora, key):
            if not any(get_pattern_key([pattern], site) == pattern for site in sites):
                raise GraspError(
                    f"lora.{key}: {pattern!r} fits no module with an adapter; the first of {len(sites)} is "
                    f"{sites[0]}"
                )
    return adapted


def _linear(model: nn.Module) -> list[str]:
    """Ends of the names of the modules that can get an adapter."""
    from transformers.pytorch_utils import Conv1D

    named = model.named_modules()
    return sorted({name.rpartition(".")[2] for name, one in named if isinstance(one, nn.Linear | Conv1D)})


def load_adapter(model: nn.Module, folder: Path, *, trainable: bool) -> Any:
    """An adapter from a PEFT folder (safetensors), on a frozen model.

    Raises:
        GraspError: There is none, or it cannot be loaded.
    """
    from peft import PeftModel

    with _for_peft(folder):
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def load_beside(adapted: Any, folder: Path, name: str) -> None:
    """One more adapter on a model that has one, called `name` and not active: `set_adapter` makes it so.

    Raises:
        GraspError: There is none, or it cannot be loaded.
    """
    with _for_peft(folder):
        adapted.load_adapter(str(folder), adapter_name=name)


# What PEFT ends in where a config or a tensor is not what it expects.
_FAULTS = (
    SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    RuntimeError,
    AssertionError, ImportError,
)  # fmt: skip


@contextmanager
def _for_peft(folder: Path) -> Iterator[None]:
    """Look at an adapter before PEFT does, and say what PEFT says of it."""
    if not (folder / WEIGHTS_FILE).is_file():
        raise GraspError(f"{folder} holds no adapter: {WEIGHTS_FILE} is missing")
    settings = read_settings(folder.name, folder)
    try:
        _check_rank(folder, settings)
        yield
    except GraspError:
        raise
    except _FAULTS as error:
        raise GraspError(f"{folder} holds no adapter that PEFT can load: {error}") from error


def _check_rank(folder: Path, settings: Mapping[str, Any]) -> None:
    """PEFT makes room for the rank that the config names before it looks at the tensors."""
    ranks = [settings.get("r"), *(settings.get("rank_pattern") or {}).values()]
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as tensors:
        sizes = [size for name in tensors.keys() for size in tensors.get_slice(name).get_shape()]  # noqa: SIM118
    if unlike := [rank for rank in ranks if isinstance(rank, int) and rank > max(sizes, default=0)]:
        raise GraspError(
            f"{folder} holds no adapter: its config names rank {unlike[0]}, its tensors have less"
        )


def merge_into_base(adapted: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Full weights with the adapter in them, and the tokenizer, into `folder`, as transformers loads them.

    Args:
        adapted: A model with an adapter; it is used up.

    Raises:
        GraspError: The merged weights are not finite, or the model's are quantized, which would round the
            adapter away.
    """
    if (kind := quantization_of(adapted.get_base_model())) is not None:
        raise GraspError(f"an adapter is merged into full weights, and these are in {kind}: load others")
    try:
        merged = adapted.merge_and_unload(safe_merge=True).to(dtype)
    except ValueError as error:
        raise GraspError(f"the adapter cannot be merged into the base model: {error}") from None
    merged.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def save_adapter(model: Any, folder: Path, start: Path | None = None) -> None:
    """Write the adapter as a plain PEFT folder; refuses weights that are not finite.

    Args:
        start: The folder that it was loaded from. What that stores beside the LoRA factors, which is base
            embeddings, is stored again: they are frozen, but the adapter was trained with them.
    """
    for name, value in adapter_weights(model).items():
        if not math.isfinite(value.sum().item()):
            raise GraspError(f"{name} holds values that are not finite; nothing was saved")
    # Embeddings are never trained here, and looking for resized ones would ask the hub.
    with without_card(model):  # the stage that saves it writes one
        model.save_pretrained(str(folder), save_embedding_layers=False)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if isinstance(modules := config.get("target_modules"), list):  # a set to PEFT: another order each time
        config["target_modules"] = sorted(modules)
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    beside = {} if start is None else _beside_factors(start / WEIGHTS_FILE)
    if beside:
        save_file(load_file(folder / WEIGHTS_FILE) | beside, folder / WEIGHTS_FILE, metadata={"format": "pt"})


@contextmanager
def without_card(model: Any) -> Iterator[None]:
    """Keeps PEFT's `save_pretrained` from writing a README.md, which takes longer than a small adapter."""
    model.create_or_update_model_card = lambda _: None
    try:
        yield
    finally:
        model.__dict__.pop("create_or_update_model_card", None)  # gone already where blocks are nested


def _beside_factors(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys() if ".lora_" not in name}  # noqa: SIM118


def adapter_weights(model: Any) -> dict[str, Any]:
    """The adapter's tensors as PEFT would save them."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))
