"""What a training is estimated to need before it begins, beside what it needed.

    python -m benchmarks memory                # three backbones, two lengths, batches of 1 and 4
    python -m benchmarks memory --out docs/results/memory.json

Each training runs in a process of its own: two steps on rows of one length, 32 tokens of each to be
predicted, an adapter of rank 8 on q_proj and v_proj. Measured is the most that the process had in memory, as
the kernel says it; estimated is what it had before, the backbone, and what `lm/footprint.py` makes of shapes.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from grasp_lora.cost import measure
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.backbone import DType, load_backbone
from grasp_lora.lm.encoding import Encoded
from grasp_lora.lm.footprint import Batch, shapes_of, tokenizer_of
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.reporting.plain import size
from grasp_lora.workspace.environment import environment

ROOT = Path(__file__).parents[1]
TARGETS = 32
RANDOM = "random Llama 348M"
BACKBONES: dict[str, DType] = {
    "packaged:gemma-3-270m": "float32",
    "packaged:smollm2-135m": "float32",
    RANDOM: "bfloat16",
}


def make_random(folder: Path) -> None:
    """A Llama of 24 layers with random weights in bfloat16, and the tokenizer of another one."""
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=24,
        num_attention_heads=16, num_key_value_heads=8, max_position_embeddings=2048, dtype="bfloat16",
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    load_backbone("packaged:smollm2-135m").tokenizer.save_pretrained(folder)


def trained(backbone: str, dtype: DType, batch_size: int, length: int) -> dict[str, Any]:
    """Bytes that a training was estimated to need, and needed, in this process."""
    lora, dice = Lora(), random.Random(0)
    rows = [  # not all of one length, so that batches are padded
        Encoded(tuple(dice.randrange(100, 30_000) for _ in range(length - n % 2)), TARGETS)
        for n in range(2 * batch_size)
    ]
    batch = Batch.of(rows, batch_size)
    with measure() as before:
        shapes = shapes_of(backbone, lora, dtype=dtype, device="cpu", revision=None)
        assert shapes is not None
        tokenizer_of(backbone, None)  # as the estimate has it before a run
    adapter = 4 * shapes.adapter
    needs = shapes.training(adapter, batch)
    with tempfile.TemporaryDirectory() as folder, measure() as cost:
        loaded = load_backbone(backbone, dtype=dtype, device="cpu")
        model = new_adapter(loaded.model, lora)
        how = Training(max_steps=2, batch_size=batch_size)
        build_trainer(model, loaded.tokenizer, rows, how, 0, Path(folder), "memory").train()
    return {
        "before": before.peak_memory_bytes,
        "weights": shapes.weights,
        "estimated": before.peak_memory_bytes + shapes.weights + max(shapes.loading, needs),
        "measured": cost.peak_memory_bytes,
    }


def apart(backbone: str, folder: Path, **how: Any) -> dict[str, Any]:
    """The same in a fresh process of one thread."""
    given = {"backbone": str(folder) if backbone == RANDOM else backbone, "dtype": BACKBONES[backbone], **how}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "memory", "--one", json.dumps(given)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return {"backbone": backbone, **how, **json.loads(done.stdout.splitlines()[-1])}


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    whole = [found["estimated"], found["measured"]]
    cells = [
        found["backbone"].removeprefix("packaged:"),
        BACKBONES[found["backbone"]],
        f"{found['batch_size']} x {found['length']}",
        *map(size, (found["before"], found["weights"], *whole)),
        f"{whole[0] / whole[1]:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--one", help="one training in this process, its arguments as JSON")
    parser.add_argument("--lengths", type=int, nargs="+", default=[96, 256])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--backbones", nargs="+", choices=list(BACKBONES), default=list(BACKBONES))
    parser.add_argument("--out", type=Path, help="the same as JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(trained(**json.loads(given.one))))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        make_random(Path(folder))
        for backbone in given.backbones:
            for length in given.lengths:
                for batch_size in given.batches:
                    how = {"batch_size": batch_size, "length": length}
                    found.append(apart(backbone, Path(folder), **how))
                    print(line(found[-1]), flush=True)
    if given.out:
        record = {"trainings": found, "environment": environment()}
        given.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
