"""Adapters of rank 256: trained, merged (rank 512), learned on, pruned and exported."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors.torch import load_file
from tests.helpers.models import VOCABULARY
from tests.helpers.run import write_setting
from tests.large.measuring import result
from transformers import LlamaConfig, LlamaForCausalLM

import grasp_lora
from grasp_lora.control.pruning import pruned_share
from grasp_lora.merging.export import export_adapter
from grasp_lora.workspace.records import LearnedRatio

CONFIG = """
name: rank
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
lora: {r: RANK, alpha: RANK}
training: {epochs: 1}
control: {micro_dev: 4, every: 2}
methods: [grasp]
evaluation: {generate: 0, metrics: []}
max_length: 40
max_new_tokens: 6
"""


def high_rank(rank: int, hidden: int) -> list[dict[str, Any]]:
    """A whole run; what it exports computes what the trained adapter does."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_setting(Path(temporary), CONFIG.replace("RANK", str(rank)))
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder / "backbone")
        start = time.perf_counter()
        run = grasp_lora.run(folder / "run.yaml", runs=folder / "runs")
        seconds = time.perf_counter() - start
        ratio = LearnedRatio.read(run.folder / "learn/seed42").found
        final = run.folder / "final/seed42"
        assert PeftConfig.from_pretrained(str(final)).r == 2 * rank
        share = pruned_share(load_file(final / "mask.safetensors").values())
        export_adapter(final, folder / "exported")
        difference = max(
            (one - other).abs().max().item()
            for one, other in zip(_deltas(final), _deltas(folder / "exported"), strict=True)
        )
    size = f"rank {rank} and {rank}, merged {2 * rank}, on hidden size {hidden}"
    return [
        result("a run: two adapters, merge, learning, final", size, seconds, "s", 300.0),
        result("the pruned share against p*", size, abs(share - ratio), "share", 0.01),
        result("what is exported against what was trained", size, difference, "largest difference", 1e-5),
    ]


def _deltas(folder: Path) -> list[torch.Tensor]:
    """Each site's scaled B A, (out, in), by the sites' names."""
    config = PeftConfig.from_pretrained(str(folder))
    weights = load_file(folder / "adapter_model.safetensors")
    names = sorted(name for name in weights if "lora_A" in name)
    return [
        weights[name.replace("lora_A", "lora_B")] @ weights[name] * (config.lora_alpha / config.r)
        for name in names
    ]
