"""What an adapter on disk does to a model, measured by PEFT alone."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tests.helpers.models import random_adapter, tiny_llama, tokens
from torch import Tensor
from transformers import PreTrainedModel

Factory = Callable[[], PreTrainedModel]
QV = ["q_proj", "v_proj"]


def usual_pair(folder: Path) -> dict[str, Path]:
    """Two adapters for `tiny_llama` of the usual kind: same modules, rank (3) and scaling (4)."""
    return {
        name: random_adapter(tiny_llama(), folder / name, seed=seed, target_modules=QV, r=3, lora_alpha=12)
        for seed, name in enumerate(("source", "target"))
    }


def load(model: PreTrainedModel, adapters: Mapping[str, Path]) -> Any:
    """All `adapters` active together."""
    (first, folder), *rest = adapters.items()
    wrapped = PeftModel.from_pretrained(model, folder, adapter_name=first)
    for name, other in rest:
        wrapped.load_adapter(other, adapter_name=name)
    wrapped.base_model.set_adapter(list(adapters))
    return wrapped.eval()


def deltas(wrapped: Any, *names: str) -> dict[str, Tensor]:
    """Site -> sum of the named adapters' weight changes, as PEFT computes them."""
    changes: dict[str, Tensor] = {}
    for site, module in wrapped.base_model.model.named_modules():
        for name in names:
            if isinstance(module, LoraLayer) and name in module.scaling:
                changes[site] = changes.get(site, 0) + module.get_delta_weight(name).detach()
    return changes


def changes_of(folder: Path, build: Factory = tiny_llama) -> dict[str, Tensor]:
    """Site -> delta_W of the adapter in `folder`."""
    return deltas(load(build(), {"only": folder}), "only")


def assert_same_changes(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for site in expected:
        torch.testing.assert_close(
            ours[site], expected[site], rtol=1e-5, atol=1e-6, msg=lambda m, s=site: f"{s}: {m}"
        )


def assert_equals_active_together(build: Factory, adapters: Mapping[str, Path], merged: Path) -> None:
    """The adapter in `merged`, alone, changes weights and logits as `adapters` do together."""
    together, alone = load(build(), adapters), load(build(), {"merged": merged})
    expected = deltas(together, *adapters)
    assert_same_changes(deltas(alone, "merged"), expected)
    assert max(change.abs().max() for change in expected.values()) > 1e-3  # or this would show nothing
    with torch.no_grad():
        torch.testing.assert_close(alone(tokens()).logits, together(tokens()).logits, rtol=1e-5, atol=2e-6)


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def sites_of(folder: Path) -> set[str]:
    names = (key.removeprefix("base_model.model.") for key in tensors_of(folder))
    return {name.split(".lora_")[0] for name in names if ".lora_" in name}


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


def edit_config(folder: Path, **changes: Any) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config_of(folder) | changes))
