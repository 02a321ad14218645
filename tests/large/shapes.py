"""A learning run over an adapter of an 8B model's shapes, on a backbone whose projections cost nothing."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tests.helpers.models import VOCABULARY, random_adapter
from tests.helpers.tokenizer import tiny_tokenizer
from tests.large.measuring import forget_peak, in_own_process, memory, result
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.rounds import TIMINGS_FILE
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.merging import merge_adapters
from grasp_lora.tasks.example import Example

LLAMA_3_8B: dict[str, Any] = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
LARGE = 1 << 20  # entries of a weight that is not made
UNSEEN = 32.0  # MB: one sort's copies and what is imported on the way, which small adapters have no bound for


class Identity(nn.Linear):
    """A frozen projection that copies as many inputs as it has outputs: its weight takes no memory."""

    def __init__(self, inputs: int, outputs: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = inputs, outputs
        self.weight = nn.Parameter(torch.zeros(1, 1).expand(outputs, inputs), requires_grad=False)
        self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., : self.out_features]


def cheap_llama(layers: int) -> LlamaForCausalLM:
    """Llama 3 8B's attention with a small vocabulary and next to no MLP; random but for the projections."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, intermediate_size=16, num_hidden_layers=layers, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, **LLAMA_3_8B,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child.weight.numel() > LARGE:
                setattr(module, name, Identity(child.in_features, child.out_features))
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                value = torch.randn(parameter.shape, generator=generator) * 0.02
                setattr(module, name, nn.Parameter(torch.ones_like(value) if value.ndim == 1 else value))
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    return model.requires_grad_(False).eval()


def train_in_shape(layers: int, steps: int, controlled: bool) -> dict[str, Any]:
    """Train a merged adapter of rank 16, with a controller round after each step or without."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed, name in enumerate(("en", "ar")):
            random_adapter(
                cheap_llama(layers),
                folder / name,
                seed=seed,
                target_modules=["q_proj", "v_proj"],
                r=8,
                lora_alpha=32,
            )
        merge_adapters({name: folder / name for name in ("en", "ar")}, folder / "merged")
        model = load_adapter(cheap_llama(layers), folder / "merged", trainable=True)
        examples = [Example(str(i), f"say word {i}\n", "ab") for i in range(8)]
        tokenizer = tiny_tokenizer()
        encoded = [encode(example, tokenizer, Limits(40)) for example in examples]
        trainer = build_trainer(model, tokenizer, encoded, Training(max_steps=steps), 0, folder, "shapes")
        if controlled:
            trainer.add_callback(
                GraspCallback(trainer, examples[:4], every=1, parts=folder / "merged", folder=folder)
            )
        forget_peak()
        before, start = memory(), time.perf_counter()
        trainer.train()
        entries = sum(p.numel() for p in model.parameters() if p.requires_grad)
        found = {"peak": memory("VmHWM"), "before": before, "entries": entries}
        found["seconds"] = (time.perf_counter() - start) / steps
        if controlled:
            lines = (folder / TIMINGS_FILE).read_text().splitlines()
            found["rounds"] = [json.loads(line) for line in lines]
        return found


def adapter_of_8b(layers: int, steps: int) -> list[dict[str, Any]]:
    """What the controller adds to a training of that adapter: memory against the design's bound, and time."""
    plain = in_own_process("train_in_shape", layers=layers, steps=steps, controlled=False)
    learned = in_own_process("train_in_shape", layers=layers, steps=steps, controlled=True)
    entries = learned["entries"]
    megabytes = entries / 2**20
    bound = (4 + 2 + 4) * megabytes  # dense values, two masks, one candidate's live values
    own = sorted(one["seconds"] - one["reward_seconds"] for one in learned["rounds"])
    rounds = sorted(one["seconds"] for one in learned["rounds"])
    size = f"{layers} layers of 4096, q and v, rank 8 + 8: {entries:,} entries"
    return [
        result(
            "memory that the controller adds to training", size, learned["peak"] - plain["peak"], "MB",
            max(bound, UNSEEN),
            training_mb=round(plain["peak"] - plain["before"], 1), design_bound_mb=round(bound, 1),
        ),
        result(
            "a round without its evaluations", size, own[len(own) // 2], "s", 5.0,
            whole_round_s=round(rounds[len(rounds) // 2], 2), training_step_s=round(plain["seconds"], 2),
        ),
    ]  # fmt: skip
