"""Tiny random causal LMs of the architectures that we promise, and random adapters for them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 48
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip


def _seeded(build: Callable[[], PreTrainedModel], seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().float().eval()


def tiny_llama(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    return _seeded(lambda: LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **_SIZES)), seed)


def tiny_qwen2(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    return _seeded(lambda: Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=layers, **_SIZES)), seed)


def tiny_qwen3(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    return _seeded(
        lambda: Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=layers, head_dim=8, **_SIZES)), seed
    )


def tiny_gemma3(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    """Tied embeddings, and both kinds of attention: every second layer sees a window of 8 tokens."""
    kinds = ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(layers)]
    config = Gemma3TextConfig(
        num_hidden_layers=layers, head_dim=8, sliding_window=8, layer_types=kinds, **_SIZES
    )
    return _seeded(lambda: Gemma3ForCausalLM(config), seed)


def tiny_gpt2(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    """Projections are `Conv1D` (weights stored as (in, out)), query, key and value fused in `c_attn`."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=layers,
        n_head=2,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _seeded(lambda: GPT2LMHeadModel(config), seed)


def tiny_opt(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=16, ffn_dim=24, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return _seeded(lambda: OPTForCausalLM(config), seed)


def tiny_mistral(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    """Every layer sees a window of 8 tokens."""
    config = MistralConfig(num_hidden_layers=layers, head_dim=8, sliding_window=8, **_SIZES)
    return _seeded(lambda: MistralForCausalLM(config), seed)


def tiny_phi(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    """Attention and MLP side by side, and biases everywhere."""
    return _seeded(lambda: PhiForCausalLM(PhiConfig(num_hidden_layers=layers, **_SIZES)), seed)


def tiny_gpt_neox(layers: int = 2, seed: int = 0) -> PreTrainedModel:
    """Query, key and value fused in `query_key_value`."""
    return _seeded(lambda: GPTNeoXForCausalLM(GPTNeoXConfig(num_hidden_layers=layers, **_SIZES)), seed)


# name -> (factory, modules to adapt)
TINY_MODELS: dict[str, tuple[Callable[..., PreTrainedModel], list[str]]] = {
    "llama": (tiny_llama, ["q_proj", "v_proj"]),
    "qwen2": (tiny_qwen2, ["q_proj", "v_proj"]),
    "qwen3": (tiny_qwen3, ["q_proj", "v_proj"]),
    "gemma3": (tiny_gemma3, ["q_proj", "v_proj"]),
    "gpt2": (tiny_gpt2, ["c_attn", "c_proj"]),
    "opt": (tiny_opt, ["q_proj", "fc1"]),
}
# Those that only whole runs are made with.
MORE_TINY_MODELS: dict[str, tuple[Callable[..., PreTrainedModel], list[str] | str]] = {
    "mistral": (tiny_mistral, "all-linear"),
    "phi": (tiny_phi, ["q_proj", "dense", "fc1"]),
    "gpt_neox": (tiny_gpt_neox, ["query_key_value", "dense_4h_to_h"]),
}


def random_adapter(
    model: PreTrainedModel, folder: Path, *, seed: int, target_modules: Sequence[str] | str, **settings: Any
) -> Path:
    """Saves to `folder` a PEFT adapter for `model` with random A and B (B too, so that it does something).

    `settings` go to `LoraConfig`. `model` is left wrapped by PEFT: build another for the next adapter.
    """
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.3)
    wrapped.save_pretrained(str(folder))
    return folder


def tokens(batch: int = 3, length: int = 12, seed: int = 0) -> torch.Tensor:
    """Random token ids (batch, length), none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (batch, length), generator=generator)
