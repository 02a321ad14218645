"""What a checkpoint of a learning run takes: seconds, and bytes on disk, beside a training step."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tests.large.measuring import result

from grasp_lora import GraspCallback, TargetLoss
from grasp_lora.data.find import find_task
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.backbone import load_backbone
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.saving import SaveOften, Saving, SavingTrainer
from grasp_lora.lm.training import Training, build_trainer


def checkpoint(steps: int, backbone: str = "packaged:gemma-3-270m") -> list[dict[str, Any]]:
    """One after each step, with a merged adapter's rank of 16 on q_proj and v_proj."""
    loaded = load_backbone(backbone)
    rows = find_task("handbook", "ar").examples("ar", "train", 32)
    adapter = new_adapter(loaded.model, Lora(r=16))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01)
    encoded = [encode(row, loaded.tokenizer, Limits(256)) for row in rows]
    times, sizes = list[float](), list[int]()

    class Timed(SavingTrainer):
        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            start = time.perf_counter()
            super()._save_checkpoint(model, trial)
            times.append(time.perf_counter() - start)
            files = [path for path in Path(self.args.output_dir).rglob("*") if path.is_file()]
            sizes.append(sum(path.stat().st_size for path in files))

    with tempfile.TemporaryDirectory() as folder:
        training = Training(max_steps=steps)
        trainer = build_trainer(adapter, loaded.tokenizer, encoded[:16], training, 42, Path(folder), "saving")
        trainer.__class__ = Timed
        loss = TargetLoss(rows[16:], loaded.tokenizer, adapter, max_length=256)
        grasp = GraspCallback(trainer, reward=lambda model: -loss.per_example(model), every=10)
        for callback in (grasp, SaveOften(Saving(every=1))):
            trainer.add_callback(callback)
        start = time.perf_counter()
        trainer.train()
        whole = time.perf_counter() - start
    factors = 4 * sum(p.numel() for p in adapter.parameters() if p.requires_grad) / 1e6
    size = f"{backbone}, rank 16, an adapter of {factors:.1f} MB"
    step = (whole - sum(times)) / steps
    return [
        result("a checkpoint of a learning run", size, statistics.median(times), "s", step),
        result("the same on disk", size, statistics.median(sizes) / 1e6, "MB", 6 * factors),
        result("a training step beside it, rounds included", size, step, "s", 60.0),
    ]
