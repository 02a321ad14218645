"""The training run at one ratio: fine-tuning the merged adapter under a mask, best dev epoch kept."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from grasp_lora.control.callback import FixedMaskCallback, MergePruneCallback
from grasp_lora.lm.adapters import load_adapter, save_adapter
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.lm.training import BestEpoch, build_trainer
from grasp_lora.stages.inputs import Inputs, adapter_digest, fingerprint, flat, settings
from grasp_lora.stages.run_directory import RunDirectory, write_json

__all__ = ["Tuning", "best_dev_loss"]


class Tuning:
    """What fine-tuning the merged adapter needs and depends on, whatever the ratio.

    Args:
        method: Whose prune units the mask has: a variant's, or those of every other method.
        every_step: No fixed mask, but pruning anew after every step.
    """

    def __init__(
        self, inputs: Inputs, run: RunDirectory, seed: int, method: str, *, every_step: bool = False
    ) -> None:
        self.inputs, self.run, self.seed, self.every_step = inputs, run, seed, every_step
        self.unit = inputs.control(method).unit
        target = inputs.config.target
        self.examples = inputs.examples(target, "train", target.train_examples)
        self.dev = inputs.examples(target, "dev", target.dev_examples)

    @property
    def epochs(self) -> int:
        """After how many epochs training ends at the latest."""
        run, count = settings(self.inputs.config.final.training, self.seed), len(self.examples)
        return math.ceil(run.steps(count) / run.steps_per_epoch(count))

    def train(self, folder: Path, p: float, on_epoch: Callable[[int, float], None] | None = None) -> None:
        """Fine-tune at the ratio `p` into `folder`; `on_epoch` sees each epoch's dev loss and may raise."""
        inputs, config = self.inputs, self.inputs.config
        backbone = inputs.backbone()
        dev_loss = inputs.loss(self.dev, backbone)
        model = load_adapter(backbone.model, self.run.path("merged"), trainable=True)
        trainer = build_trainer(
            model,
            backbone.tokenizer,
            inputs.encode(self.examples, backbone),
            settings(config.final.training, self.seed),
            folder,
            title=f"fine-tune at p = {p:.3f}",
        )
        mask = self._mask(p, dev_loss)
        patience = config.final.training.patience
        best = BestEpoch(trainer, dev_loss, patience, on_epoch, keep_start=not self.every_step)
        trainer.add_callback(mask)
        trainer.add_callback(best)
        trainer.train()
        save_adapter(model, folder, self.run.path("merged"))
        if isinstance(mask, FixedMaskCallback) and mask.masked is not None:
            save_file(mask.masked.masks(), folder / "mask.safetensors")
            write_json(folder / "pruned.json", {"p": p, "share_by_unit": mask.masked.pruned_shares()})
        write_json(folder / "dev_losses.json", {"by_epoch": best.losses, "best_epoch": best.epoch})

    def _mask(self, p: float, dev_loss: TargetLoss) -> FixedMaskCallback | MergePruneCallback:
        config, parts = self.inputs.config, self.run.path("merged")
        if self.every_step:
            how = config.merge_prune.model_dump(exclude_none=True)
            return MergePruneCallback(p, validation=dev_loss, parts=parts, **how)
        return FixedMaskCallback(p, parts=parts, unit=self.unit)

    def dependencies(self) -> dict[str, Any]:
        """For `done.json`, but for the ratio."""
        config = self.inputs.config
        how = (
            flat("merge_prune", config.merge_prune.model_dump())
            if self.every_step
            else {"control.unit": self.unit}
        )
        return {
            **self.inputs.model_inputs(),
            **flat("final.training", config.final.training.model_dump()),
            **how,
            "seed": self.seed,
            "merged": adapter_digest(self.run.path("merged")),
            "data.train": fingerprint(self.examples),
            "data.dev": fingerprint(self.dev),
        }


def best_dev_loss(folder: Path) -> float:
    """The dev loss of the epoch that a run of `Tuning.train` kept."""
    found = json.loads((folder / "dev_losses.json").read_text(encoding="utf-8"))
    return float(found["by_epoch"][found["best_epoch"]])
