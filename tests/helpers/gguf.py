"""Tiny random models written as GGUF files by llama.cpp's own writer, and the packages that carry them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "vocab_size": 260, "head_dim": 8, "rms_norm_eps": 1e-5, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    **SIZES,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma3_text", "vocab_size": 320, "head_dim": 16, "query_pre_attn_scalar": 16,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"], "pad_token_id": 0,
    "eos_token_id": 1, "bos_token_id": 2, **SIZES,
}  # fmt: skip

NORMAL, CONTROL, BYTE = 1, 3, 6
# The tensor names of the GGUF format, by module of the transformers layer.
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}  # fmt: skip
NORM_NAMES = {
    "llama": {"post_attention_layernorm": "ffn_norm"},
    "gemma3": {
        "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}  # fmt: skip


def random_model(config: dict[str, Any]) -> PreTrainedModel:
    """Norm weights are random too, and projections are exact in Q8_0, so that nothing is lost on the way."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).float().eval()
        for name, weight in model.named_parameters():
            weight.normal_(std=0.3)
            if "mlp" in name:
                kind = gguf.GGMLQuantizationType.Q8_0
                weight.copy_(torch.tensor(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind)))
    return model


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Llama's rotary halves are stored as neighbours in a GGUF."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(model: PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    names = LAYER_NAMES | NORM_NAMES[architecture]
    tensors = {}
    for name, parameter in model.named_parameters():
        module, weight = name.removesuffix(".weight"), parameter.detach().numpy()
        if architecture == "gemma3" and module.endswith("norm"):
            weight = weight + 1  # what the norm multiplies by
        if module in ("model.embed_tokens", "model.norm"):
            short = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}[module]
        else:
            _, _, layer, inner = module.split(".", 3)
            if architecture == "llama" and names[inner] in heads:
                weight = interleave(weight, heads[names[inner]])
            short = f"blk.{layer}.{names[inner]}"
        tensors[f"{short}.weight"] = weight
    return tensors


def llama_vocabulary(writer: Any) -> None:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*special, *bytes_to_unicode().values(), "ĠĠ"])
    writer.add_token_types([CONTROL] * 3 + [NORMAL] * 257)
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)


def gemma_vocabulary(writer: Any) -> None:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz", "ab", "▁ab", "م", "你", "\n"]
    spare = [f"<unused{i}>" for i in range(320 - 5 - 256 - len(letters))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*special, *spare, *(f"<0x{byte:02X}>" for byte in range(256)), *letters])
    writer.add_token_scores([0.0] * (320 - len(letters)) + [-float(i) for i in range(len(letters))])
    writer.add_token_types([CONTROL] * (5 + len(spare)) + [BYTE] * 256 + [NORMAL] * len(letters))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)


def write_gguf(model: PreTrainedModel, architecture: str, path: Path) -> None:
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    {"llama": llama_vocabulary, "gemma3": gemma_vocabulary}[architecture](writer)
    for name, weight in gguf_tensors(model, architecture).items():
        if "ffn_" in name and weight.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weight.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
