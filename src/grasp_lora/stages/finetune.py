"""Stage 4: prune once at a fixed ratio and fine-tune (GRASP Sec. 3.4); ratio 0 is the plain merge."""

import json
from pathlib import Path

from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.run_directory import RunDirectory
from grasp_lora.stages.tuning import Tuning

__all__ = ["finetune", "learned_ratio"]


def learned_ratio(inputs: Inputs, run: RunDirectory, method: str = "grasp") -> float:
    """The ratio that the method found.

    Raises:
        GraspError: There was none yet.
    """
    name = inputs.ratio_stage(method)
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

    `p` is a ratio, or the method ("grasp", "random", ...) whose learning run says which. With `every_step`
    there is no fixed mask: entries are pruned anew after every step and trained again (Miyano & Arase).

    Starts from the pre-controller merge. Leaves a PEFT adapter, `mask.safetensors` (True = keep) and the
    dev loss by epoch.
    """
    method = p if isinstance(p, str) else ""
    ratio = learned_ratio(inputs, run, p) if isinstance(p, str) else p
    tuning = Tuning(inputs, run, seed, method, every_step=every_step)
    dependencies = {**tuning.dependencies(), "p": ratio}
    return run.stage(name, dependencies, lambda folder: tuning.train(folder, ratio))
