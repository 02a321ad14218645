"""LoRA adapters on a backbone, through PEFT."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from grasp_lora.errors import GraspError

__all__ = ["adapter_weights", "load_adapter", "new_adapter", "save_adapter"]


def new_adapter(
    model: nn.Module,
    *,
    r: int = 8,
    alpha: float = 32,
    dropout: float = 0.05,
    target_modules: Sequence[str] | str = ("q_proj", "v_proj"),
) -> Any:
    """A fresh trainable LoRA adapter on a frozen model; the defaults are the paper's (Table 7).

    PEFT keeps adapter weights in float32 whatever the model's type. Its initialisation draws from the
    global generator: seed that (`transformers.set_seed`) for a repeatable adapter.
    """
    from peft import LoraConfig, get_peft_model

    modules = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules, task_type="CAUSAL_LM"
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # no module of that name
        raise GraspError(f"cannot place LoRA on {modules}: {error}") from error


def load_adapter(model: nn.Module, folder: Path, *, trainable: bool) -> Any:
    """An adapter from a PEFT folder (safetensors), on a frozen model."""
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise GraspError(f"{folder} holds no adapter: adapter_model.safetensors is missing")
    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter as a plain PEFT folder; refuses weights that are not finite."""
    for name, value in adapter_weights(model).items():
        if not math.isfinite(value.sum().item()):
            raise GraspError(f"{name} holds values that are not finite; nothing was saved")
    # Embeddings are never trained here, and looking for resized ones would ask the hub.
    model.save_pretrained(str(folder), save_embedding_layers=False)


def adapter_weights(model: Any) -> dict[str, Any]:
    """The adapter's tensors as PEFT would save them."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model, save_embedding_layers=False))
