"""Stage 1: a LoRA adapter for one language (GRASP Sec. 3.2)."""

from pathlib import Path

from transformers import set_seed

from grasp_lora.config import Side
from grasp_lora.lm.adapters import new_adapter, save_adapter
from grasp_lora.lm.training import BestEpoch, build_trainer
from grasp_lora.stages.inputs import Inputs, fingerprint, flat, settings
from grasp_lora.stages.run_directory import RunDirectory, write_json

__all__ = ["train_adapter"]


def train_adapter(inputs: Inputs, run: RunDirectory, side: Side) -> Path:
    """Train the side's adapter, best dev epoch kept, into `adapters/LANGUAGE`; use a given one as it is."""
    if side.adapter is not None:
        return side.adapter
    config, seed = inputs.config, inputs.config.seed if side.seed is None else side.seed
    train = inputs.examples(side, "train", side.train_examples)
    dev = inputs.examples(side, "dev", side.dev_examples)

    def work(folder: Path) -> None:
        backbone = inputs.backbone()
        set_seed(seed)  # LoRA's A is drawn from the global generator
        lora = config.lora.model_dump()
        model = new_adapter(backbone.model, **lora)
        trainer = build_trainer(
            model,
            backbone.tokenizer,
            inputs.encode(train, backbone),
            settings(side.training, seed),
            folder,
            title=f"train adapter {side.language}",
        )
        best = BestEpoch(trainer, inputs.loss(dev, backbone), side.training.patience)
        trainer.add_callback(best)
        trainer.train()
        save_adapter(model, folder)
        write_json(folder / "dev_losses.json", {"by_epoch": best.losses, "best_epoch": best.epoch})

    dependencies = {
        **inputs.model_inputs(),
        **flat("lora", config.lora.model_dump()),
        **flat("training", side.training.model_dump()),
        "seed": seed,
        "data.train": fingerprint(train),
        "data.dev": fingerprint(dev),
    }
    return run.stage(f"adapters/{side.language}", dependencies, work)
