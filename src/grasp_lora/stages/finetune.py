"""Stage 4: prune once at a fixed ratio and fine-tune (GRASP Sec. 3.4); ratio 0 is the plain merge."""

import json
from pathlib import Path

from safetensors.torch import save_file

from grasp_lora.control.callback import FixedMaskCallback, MergePruneCallback
from grasp_lora.lm.adapters import load_adapter, save_adapter
from grasp_lora.lm.training import BestEpoch, build_trainer
from grasp_lora.stages.inputs import Inputs, fingerprint, flat, settings
from grasp_lora.stages.run_directory import RunDirectory, write_json

__all__ = ["finetune", "learned_ratio"]


def learned_ratio(inputs: Inputs, run: RunDirectory, method: str = "grasp") -> float:
    """p* of the learning run with the method's policy.

    Raises:
        GraspError: There was none yet.
    """
    name = inputs.learn_stage(method)
    run.output(name, "ratio.json")
    return float(json.loads((run.path(name) / "ratio.json").read_text(encoding="utf-8"))["p"])


def finetune(
    inputs: Inputs,
    run: RunDirectory,
    seed: int,
    name: str,
    p: float | str = "grasp",
    *,
    every_step: bool = False,
) -> Path:
    """Fine-tune the merged adapter under the mask at `p`, best dev epoch kept, into `name`.

    `p` is a ratio, or the method ("grasp", "random") whose learning run says which. With `every_step` there
    is no fixed mask: entries are pruned anew after every step and trained again (Miyano & Arase).


    Starts from the pre-controller merge. Leaves a PEFT adapter, `mask.safetensors` (True = keep) and the
    dev loss by epoch.
    """
    config = inputs.config
    p = learned_ratio(inputs, run, p) if isinstance(p, str) else p
    train = inputs.examples(config.target, "train", config.target.train_examples)
    dev = inputs.examples(config.target, "dev", config.target.dev_examples)

    def work(folder: Path) -> None:
        backbone = inputs.backbone()
        dev_loss = inputs.loss(dev, backbone)
        model = load_adapter(backbone.model, run.path("merged"), trainable=True)
        trainer = build_trainer(
            model,
            backbone.tokenizer,
            inputs.encode(train, backbone),
            settings(config.final.training, seed),
            folder,
            title=f"fine-tune at p = {p:.3f}",
        )
        mask: FixedMaskCallback | MergePruneCallback
        if every_step:
            how = config.merge_prune.model_dump()
            mask = MergePruneCallback(p, validation=dev_loss, parts=run.path("merged"), **how)
        else:
            mask = FixedMaskCallback(p, parts=run.path("merged"), unit=config.control.unit)
        best = BestEpoch(trainer, dev_loss, config.final.training.patience)
        trainer.add_callback(mask)
        trainer.add_callback(best)
        trainer.train()
        save_adapter(model, folder)
        if isinstance(mask, FixedMaskCallback) and mask.masked is not None:
            save_file(mask.masked.masks(), folder / "mask.safetensors")
            write_json(folder / "pruned.json", {"p": p, "share_by_unit": mask.masked.pruned_shares()})
        write_json(folder / "dev_losses.json", {"by_epoch": best.losses, "best_epoch": best.epoch})

    dependencies = {
        **inputs.model_inputs(),
        **flat("final.training", config.final.training.model_dump()),
        **(
            flat("merge_prune", config.merge_prune.model_dump())
            if every_step
            else {"control.unit": config.control.unit}
        ),
        "p": p,
        "seed": seed,
        "merged": run.output("merged", "adapter_model.safetensors"),
        "data.train": fingerprint(train),
        "data.dev": fingerprint(dev),
    }
    return run.stage(name, dependencies, work)
