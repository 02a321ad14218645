"""Does a mask that is drawn anew at every step regularise, as LoRA's dropout does? Is momentum to move it?

    python -m benchmarks regularise configs/matrix/ar.yaml [OVERRIDES] --epochs 3 --out FILE --scratch FOLDER

Trains the merge with several rates of dropout, under a fixed mask, and as `curve` does (masked entries moved
by AdamW's momentum, or frozen), the same rows in the same order, and writes the mean loss of the training
rows and of the test rows after each epoch, not cut and cut at p = 0.5, one JSON line a training. What is in
the file already is not trained again.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from grasp_lora.control.curve_callback import RatioCurveCallback
from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.control.units import adapter_parameters
from grasp_lora.experiment import make, start
from grasp_lora.methods.start import Start
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.fit import fit
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import behind

CUT = 0.5
KINDS = (
    "dropout 0.05", "curve", "curve, frozen", "dropout 0.2", "dropout 0.4", f"fixed {CUT:g}", "dropout 0",
)  # fmt: skip


class _Frozen(RatioCurveCallback):
    """Undoes what a step did to the entries that its mask took."""

    @torch.no_grad()
    def on_pre_optimizer_step(self, *given: Any, **more: Any) -> None:
        assert self.curve is not None
        masks = {name: mask.clone() for name, mask in self.curve.masked.masks().items()}
        super().on_pre_optimizer_step(*given, **more)
        factors = adapter_parameters(self.trainer.model)
        self._before = [(factors[name], factors[name].clone(), mask) for name, mask in masks.items()]

    @torch.no_grad()
    def on_optimizer_step(self, *given: Any, **more: Any) -> None:
        for factor, before, mask in self._before:
            factor.copy_(torch.where(mask, factor, before))


class _Looks(TrainerCallback):
    """Each row's loss after every epoch."""

    def __init__(self, loss: Callable[[nn.Module], Any]) -> None:
        self.loss, self.seen = loss, list[list[float]]()

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.seen.append(self.loss(model).tolist())


def _set_dropout(model: nn.Module, rate: float) -> None:
    for name, module in model.named_modules():
        if "lora_dropout" in name and isinstance(module, nn.Dropout):
            module.p = rate


def trained(x: Start, kind: str, epochs: int, folder: Path) -> dict[str, Any]:
    """One line: the mean losses by rows and by where the adapter is cut, epoch by epoch."""
    config, run = x.config, RunDirectory(x.config.folder, Resources())
    make(x, behind(x.merged))
    where, resources = run.path(x.merged.name), run.resources
    train = resources.examples(x.rows(config.target, "train"))
    rows: list[Example] = [*train, *resources.examples(x.rows(config.target, "test"))]
    training = config.final.training.model_copy(update={"epochs": epochs, "max_steps": None})
    kept: list[Any] = []

    def callbacks(trainer: Any, backbone: Any) -> list[Any]:
        if kind.startswith("curve"):
            how = {"ratios": (0.0, CUT), "parts": where, "every_epoch": True, "seed": config.seed}
            kind_of = _Frozen if kind.endswith("frozen") else RatioCurveCallback
            kept.append(kind_of(trainer, rows, **how, **asdict(x.limits)))
            return kept
        if kind.startswith("dropout"):
            _set_dropout(trainer.model, float(kind.split()[1]))
        fixed = [FixedMaskCallback(CUT, parts=where)] if kind.startswith("fixed") else []
        kept.append(_Looks(resources.loss(rows, backbone, x.limits).per_example))
        return [*fixed, *kept]

    fit(resources, folder, x.model, where, train, training, x.limits, config.seed, callbacks)
    if kind.startswith("curve"):
        seen = {p: [list(one.at(p).losses) for one in kept[0].epochs] for p in (0.0, CUT)}
    else:
        seen = {CUT if kind.startswith("fixed") else 0.0: kept[0].seen}

    def means(losses: list[float]) -> dict[str, float]:
        parts = {"train": losses[: len(train)], "test": losses[len(train) :]}
        return {name: sum(one) / len(one) for name, one in parts.items()}

    return {"kind": kind, "epochs": {str(p): list(map(means, by_epoch)) for p, by_epoch in seen.items()}}


def main() -> None:
    """Write what is not written yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    given = parser.parse_args()
    lines = given.out.read_text(encoding="utf-8").splitlines() if given.out.exists() else []
    known = {json.loads(line)["kind"] for line in lines}
    x = start(given.config, given.overrides)
    for kind in KINDS:
        if kind not in known:
            folder = given.scratch / x.config.name / kind.replace(" ", "-").replace(",", "")
            line = trained(x, kind, given.epochs, folder)
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
