"""A model of Llama 3 8B's shape with random weights, to measure on where no hub is reached.

    python -m benchmarks large FOLDER                   # 16 GB of bfloat16, and a tokenizer of bytes
    python -m benchmarks large FOLDER --layers 2 --width 64   # a small one, to try commands with

What is measured with it: `python -m benchmarks step --backbone FOLDER --tokens 1024 ...`, and the whole
pipeline by `grasp run benchmarks/large.yaml backbone=FOLDER`.
"""

import argparse
from pathlib import Path

import torch
from benchmarks._common import positive
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grasp_lora.lm.backbone import pick_device

END = "<|end_of_text|>"


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte: random weights have no use for more."""
    alphabet = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=positive, default=32)
    parser.add_argument("--width", type=positive, default=4096, help="hidden size, of 32 heads in all")
    given = parser.parse_args()
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=given.width,
        intermediate_size=given.width * 7 // 2,
        num_hidden_layers=given.layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
        bos_token_id=None,
        eos_token_id=0,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(pick_device()):
        model = LlamaForCausalLM(config)
    model.save_pretrained(given.folder)
    tokenizer().save_pretrained(given.folder)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} billion weights in {given.folder}")


if __name__ == "__main__":
    main()
