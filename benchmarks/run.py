"""Speed and memory of the method, on this machine.

    make bench                                        # Gemma 3 270M, the handbook's Arabic sections
    python benchmarks/run.py --shape llama-3-8b       # random weights in Llama 3 8B's shape (a GPU)

Prints one line per figure and, with --out FILE, writes them as JSON with the machine and versions.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from grasp_lora import GraspController, TargetLoss
from grasp_lora.cost import measure
from grasp_lora.data.find import find_task
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.backbone import Backbone, load_backbone, pick_device
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Encoded, Limits, encode
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.environment import environment

LLAMA_3_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rope_theta": 500_000.0,
}


def llama_3_8b() -> Any:
    """Random weights in Llama 3 8B's shape, bfloat16 on a GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    device = pick_device()
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(LlamaConfig(**LLAMA_3_8B)).requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    return model.eval()


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of `work`, after one call that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def plain_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """The same batch the plain way: labels at every position, logits of all of them."""
    length, kept = batch["input_ids"].shape[1], batch["labels"].shape[1]
    labels = torch.nn.functional.pad(batch["labels"], (length - kept, 0), value=-100)
    return {k: v for k, v in batch.items() if k != "logits_to_keep"} | {"labels": labels}


def measure_method(
    model: Any, collate: TargetCollator, loss: TargetLoss, encoded: list[Encoded], repeats: int
) -> dict[str, float]:
    """Steps, probes and rounds of one adapter on one backbone."""
    device = next(model.parameters()).device

    def on_device(batch: dict[str, Any]) -> dict[str, Any]:
        return {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}

    adapter = new_adapter(model, Lora())
    optimizer = torch.optim.AdamW([p for p in adapter.parameters() if p.requires_grad], lr=1e-4)
    one = on_device(collate(encoded[:1]))
    full = plain_batch(one)
    singles = [plain_batch(on_device(collate([e]))) for e in encoded[:16]]

    def step(batch: dict[str, Any]) -> None:
        adapter.train()
        adapter(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def one_by_one() -> float:
        adapter.eval()
        return sum(adapter(**batch).loss.item() for batch in singles) / len(singles)

    figures = {
        "step_s": seconds(lambda: step(one), repeats),
        "step_plain_s": seconds(lambda: step(full), repeats),
        "probe_16_s": seconds(lambda: loss(adapter), repeats),
        "probe_16_plain_s": seconds(one_by_one, max(1, repeats // 3)),
    }
    rounds: list[tuple[float, float]] = []
    spent = [0.0]

    def reward(m: torch.nn.Module) -> float:
        start = time.perf_counter()
        value = -loss(m)
        spent[0] += time.perf_counter() - start
        return value

    controller = GraspController(
        adapter, optimizer, reward, every=1, on_round=lambda _, s: rounds.append((s, spent[0]))
    )
    with measure() as cost:
        for _ in range(4):
            spent[0] = 0.0
            step(one)
            controller.after_optimizer_step()
    figures["round_s"] = statistics.median(s for s, _ in rounds[1:])
    figures["round_overhead_share"] = statistics.median(1 - inner / total for total, inner in rounds[1:])
    figures["peak_memory_gib"] = max(cost.peak_memory_bytes, 0) / 2**30
    figures["peak_gpu_memory_gib"] = cost.peak_gpu_memory_bytes / 2**30
    return figures


def random_examples(vocabulary: int, count: int, length: int, targets: int) -> list[Encoded]:
    """Token ids drawn evenly, for a model without a tokenizer."""
    draws = torch.randint(3, vocabulary, (count, length), generator=torch.Generator().manual_seed(0))
    return [Encoded(tuple(row.tolist()), targets) for row in draws]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=["gemma-3-270m", "llama-3-8b"], default="gemma-3-270m")
    parser.add_argument("--tokens", type=int, help="tokens per example; default 256, for llama-3-8b 1024")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.shape == "llama-3-8b":
        tokens = arguments.tokens or 1024
        model = llama_3_8b()
        encoded = random_examples(LLAMA_3_8B["vocab_size"], 16, tokens, 64)
        collate = TargetCollator(type("Padding", (), {"pad_token_id": 0}), model)
        loss = TargetLoss.from_encoded(encoded, collate, token_budget=16 * tokens)
    else:
        tokens = arguments.tokens or 256
        backbone: Backbone = load_backbone("packaged:gemma-3-270m")
        model = backbone.model
        examples: list[Example] = find_task("handbook").examples("ar", "micro_dev", 16)
        encoded = [encode(e, backbone.tokenizer, Limits(tokens, 32)) for e in examples]
        collate = TargetCollator(backbone.tokenizer, model)
        loss = TargetLoss.from_encoded(encoded, collate, token_budget=4096)
    figures = measure_method(model, collate, loss, encoded, arguments.repeats)
    figures["step_ratio"] = figures["step_s"] / figures["step_plain_s"]
    figures["probe_ratio"] = figures["probe_16_s"] / figures["probe_16_plain_s"]
    for name, value in figures.items():
        print(f"{name:22} {value:.4f}")
    if arguments.out:
        record = {"shape": arguments.shape, "tokens": tokens, **figures, "environment": environment()}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
