"""How the time of a round and of a run grows: with candidates, rows, tokens, entries, units, steps.

    python -m benchmarks growth

A Llama of eight layers with random weights. One thing grows at a time; given are seconds, the exponent of the
line through their logarithms (1: linear), and what of a round is not its evaluations. `python -m benchmarks
plan` does the same for the plan over its stages.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks._common import keep, positive, seconds, table
from benchmarks.large import tokenizer
from benchmarks.step import random_rows
from transformers import LlamaConfig, LlamaForCausalLM

from grasp_lora import GraspController, RatioPolicy, TargetLoss
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.training import Training, build_trainer

USUAL = {"candidates": 3, "rows": 16, "tokens": 64, "rank": 8, "modules": 2}
GROWS: dict[str, list[int]] = {
    "candidates": [1, 3, 7, 15],
    "rows": [8, 16, 32, 64],
    "tokens": [32, 64, 128, 256],
    "rank": [4, 8, 16, 32],
    "modules": [1, 2, 4, 7],
}
MODULES = ("q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def model_of(rank: int, modules: int) -> Any:
    """An adapter on so many of a layer's modules, none of whose factors is zero."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8,
    )  # fmt: skip
    backbone = LlamaForCausalLM(config).requires_grad_(False)
    model = new_adapter(backbone, Lora(r=rank, target_modules=MODULES[:modules]))
    for name, factor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(factor, std=1e-3)
    return model


def a_round(repeats: int, **given: int) -> dict[str, float]:
    """Median seconds of a round, and of the evaluations in it."""
    model = model_of(given["rank"], given["modules"])
    encoded = random_rows(1000, given["rows"], given["tokens"], 8)
    loss = TargetLoss.from_encoded(encoded, TargetCollator(tokenizer(), model), token_budget=1024)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    policy = RatioPolicy(candidates=given["candidates"])
    with tempfile.TemporaryDirectory() as folder:
        controller = GraspController(
            model, optimizer, lambda m: -loss(m), policy=policy, every=1, folder=Path(folder)
        )
        seconds(controller.after_optimizer_step, repeats)
        lines = (Path(folder) / "timings.jsonl").read_text().splitlines()[1:]
    whole, part = (
        statistics.median(json.loads(line)[key] for line in lines) for key in ("seconds", "reward_seconds")
    )
    return {"seconds": whole, "evaluations": part}


def a_run(steps: int, rows: int) -> float:
    """Seconds of training."""
    model = model_of(8, 2)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(max_steps=steps)
        encoded = random_rows(1000, rows, 64, 8)
        trainer = build_trainer(model, tokenizer(), encoded, training, 0, Path(folder), "growth")
        return min(seconds(trainer.train, 1, warmup=0))


def exponent(x: list[int], y: list[float]) -> float:
    """Of the power of x that y grows with."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _values(values: list[int]) -> str:
    return ", ".join(map(str, values))


def render(run: dict[str, Any]) -> str:
    """A run as Markdown."""
    rows = []
    for name, found in run["rounds"].items():
        whole = [one["seconds"] for one in found]
        beside = [1e3 * (one["seconds"] - one["evaluations"]) for one in found]
        said = [", ".join(f"{value:.{digits}f}" for value in of) for of, digits in ((whole, 3), (beside, 1))]
        x = [value + (name == "candidates") for value in GROWS[name]]  # the mask in force is evaluated, too
        rows.append([f"{name}: {_values(GROWS[name])}", said[0], f"{exponent(x, whole):.2f}", said[1]])
    for name, found in run["runs"].items():
        x, y = [int(key) for key in found], [*found.values()]
        times = ", ".join(f"{value:.2f}" for value in y)
        rows.append([f"run, {name}: {_values(x)}", times, f"{exponent(x, y):.2f}", ""])
    return table(["what grows", "seconds", "exponent", "of a round beside its evaluations, ms"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--out", default="growth", metavar="NAME", help="of the files in benchmarks/results")
    given = parser.parse_args()
    rounds = {
        name: [a_round(given.repeats, **USUAL | {name: value}) for value in values]
        for name, values in GROWS.items()
    }
    runs = {
        "steps": {n: a_run(n, 16) for n in (20, 40, 80, 160)},
        "rows of an epoch": {n: a_run(n, n) for n in (20, 40, 80, 160)},
    }
    keep(given.out, "Growth", {"rounds": rounds, "runs": json.loads(json.dumps(runs))}, render)


if __name__ == "__main__":
    main()
