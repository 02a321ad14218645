"""What a checkpoint of a learning run costs: seconds, and bytes on disk, beside a training step.

    python benchmarks/checkpoints.py --out checkpoints.json

Gemma 3 270M, a merged adapter's rank of 16 on q_proj and v_proj, one checkpoint a step.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from grasp_lora import GraspCallback, TargetLoss
from grasp_lora.data.find import find_task
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.backbone import load_backbone
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.saving import SaveOften, Saving, SavingTrainer
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.workspace.environment import environment


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    backbone = load_backbone("packaged:gemma-3-270m")
    rows = find_task("handbook", "ar").examples("ar", "train", 32)
    adapter = new_adapter(backbone.model, Lora(r=16))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    encoded = [encode(row, backbone.tokenizer, Limits(256)) for row in rows]
    saves, sizes = [], []
    save = SavingTrainer._save_checkpoint

    def timed(self: SavingTrainer, model: Any, trial: Any) -> None:
        start = time.perf_counter()
        save(self, model, trial)
        saves.append(time.perf_counter() - start)
        folder = Path(self.args.output_dir)
        sizes.append(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))

    SavingTrainer._save_checkpoint = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        training = Training(max_steps=arguments.steps)
        trainer = build_trainer(
            adapter, backbone.tokenizer, encoded[:16], training, 42, Path(folder), "checkpoints"
        )
        loss = TargetLoss(rows[16:], backbone.tokenizer, adapter, max_length=256)
        grasp = GraspCallback(trainer, reward=lambda model: -loss.per_example(model), every=10)
        for callback in (grasp, SaveOften(Saving(every=1))):
            trainer.add_callback(callback)
        start = time.perf_counter()
        trainer.train()
        whole = time.perf_counter() - start
    factors = sum(p.numel() for p in adapter.parameters() if p.requires_grad)
    found = {
        "checkpoint_seconds": round(statistics.median(saves), 3),
        "checkpoint_megabytes": round(statistics.median(sizes) / 1e6, 1),
        "adapter_megabytes": round(4 * factors / 1e6, 1),
        "step_seconds_without": round((whole - sum(saves)) / arguments.steps, 3),
        "steps": arguments.steps,
    }
    print(json.dumps(found, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({**found, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
