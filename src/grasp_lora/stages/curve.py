"""One training that teaches every ratio, and what each of them loses."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from grasp_lora.control.curve_callback import RatioCurveCallback
from grasp_lora.control.settings import Curve
from grasp_lora.control.units import UnitKind
from grasp_lora.lm.adapters import save_adapter
from grasp_lora.lm.backbone import Backbone
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.training import Training
from grasp_lora.merging.parts import PARTS_FILE, read_parts
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.fit import fit
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.passes import passes_of_curve
from grasp_lora.workspace.records import LearnedRatio
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work

__all__ = ["CURVE"]


def teach(
    resources: Resources,
    folder: Path,
    *,
    model: Model,
    start: Path,
    train: Sequence[Example],
    micro_dev: Sequence[Example],
    how: Curve,
    adapters: int,
    unit: UnitKind,
    training: Training,
    limits: Limits,
    seed: int,
) -> None:
    """Leaves the dense adapter with its parts, `MeasuredCurve`, and the ratio that was chosen on it as
    `LearnedRatio`.

    Args:
        start: The merged adapter.
        adapters: How many have a ratio of their own; 0: one ratio for all.
    """
    parts = start if read_parts(start) is not None else None

    def callbacks(trainer: Trainer, backbone: Backbone) -> list[TrainerCallback]:
        curve = RatioCurveCallback(
            trainer,
            micro_dev,
            **asdict(limits),
            ratios=how.ratios,
            p_min=how.p_min,
            p_max=how.p_max,
            per_adapter=adapters > 0,
            parts=parts,
            unit=unit,
            margin=how.margin,
            seed=seed,
        )
        return [curve]

    trainer, _, added = fit(resources, folder, model, start, train, training, limits, seed, callbacks)
    measured = added[0].result
    save_adapter(trainer.model, folder, start)
    if parts is not None:
        shutil.copyfile(start / PARTS_FILE, folder / PARTS_FILE)
    measured.write(folder)
    chosen = measured.choose(how.select)
    LearnedRatio(chosen.p, reward=-chosen.mean, rule=how.select).write(folder)


def _about(folder: Path, *, how: Curve, micro_dev: Any, **_: Any) -> str:
    found = LearnedRatio.read(folder)
    return (
        f"One training drew a ratio from {how.p_min:g} to {how.p_max:g} anew at every step; of the ratios "
        f"that were then measured on micro-dev rows p = {found.found:g} was chosen (rule: {found.rule})."
    )


CURVE = Work(teach, passes=passes_of_curve, about=_about, resumes=True)
