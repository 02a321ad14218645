"""What finished stages recorded that ran as planned ones would: in the same run, or in runs beside it."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.lm.backbone import pick_device
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.training import Training
from grasp_lora.workspace.environment import environment
from grasp_lora.workspace.files import changed_at
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.records import CONFIG_FILE, ENVIRONMENT_FILE, Done
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.unfinished import PARTIAL, REPLACED

__all__ = ["Finished", "alike_in_memory", "alike_in_time", "finished_in", "runs_beside"]

BESIDE = 8  # runs, the newest: each has hundreds of small files


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished stage of some run."""

    run: Path
    name: str
    done: Done


def runs_beside(roots: Collection[Path]) -> list[Path]:
    """The newest other runs in the folders where these are or will be."""
    found = []
    for parent in {root.parent for root in roots}:
        for folder in parent.iterdir() if parent.is_dir() else ():
            with suppress(OSError):  # another user's
                if folder not in roots and (folder / CONFIG_FILE).is_file():
                    found.append(folder)
    return sorted(found, key=lambda folder: -changed_at(folder / CONFIG_FILE))[:BESIDE]


def finished_in(run: Path, model: Model) -> list[Finished]:
    """Its finished stages that had this backbone and dtype, or none, where it was made on such a device."""
    on_gpu = pick_device(model.device).type == "cuda"
    if not _same_device(run, on_gpu):
        return []
    found = list(_read(run))
    worked = [one for one in found if _same_model(one, model, on_gpu)]
    return worked and [one for one in found if one in worked or "model.name" not in one.done.inputs]


def _same_device(run: Path, on_gpu: bool) -> bool:
    try:
        there = json.loads((run / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    here = environment()
    keys = ("gpus",) if on_gpu else ("processor", "cores", "threads")
    return isinstance(there, Mapping) and all(there.get(key) == here[key] for key in keys)


def _same_model(one: Finished, model: Model, on_gpu: bool) -> bool:
    used = [one.done.inputs.get(f"model.{key}") for key in ("name", "dtype", "quantization")]
    same = used == [model.name, model.number_format, model.quantization]
    return same and bool(one.done.peak_gpu_memory_bytes) == on_gpu


def _read(run: Path) -> Iterator[Finished]:
    for path in sorted(run.rglob(Done.FILE)):
        name = path.parent.relative_to(run).as_posix()
        if PARTIAL in name or REPLACED in name:
            continue
        try:
            yield Finished(run, name, Done.read(path.parent))
        except GraspError:  # whoever makes it again says so
            continue


def alike_in_time(one: Finished, stages: Sequence[Stage]) -> bool:
    """Whether a pass of it takes about what one of these takes: answers are no passes, so they must be as
    many, and may be as long.
    """
    inputs = one.done.inputs
    if "answers" not in inputs:
        return True
    return any(
        stage.work.name == one.done.work
        and stage.given.get("answers") == inputs["answers"]
        and _limits(stage).max_new_tokens == inputs.get("limits.max_new_tokens")
        for stage in stages
    )


def alike_in_memory(one: Finished, stage: Stage) -> bool:
    """Whether it had batches as large as the stage will have, and answers as long."""
    inputs, limits, training = one.done.inputs, _limits(stage), stage.given.get("training")
    wanted: dict[str, Any] = {f"limits.{key}": getattr(limits, key) for key in Limits.__dataclass_fields__}
    if isinstance(training, Training):
        wanted["training.batch_size"] = training.batch_size
    return stage.work.name == one.done.work and all(
        inputs.get(key, value) == value for key, value in wanted.items()
    )


def _limits(stage: Stage) -> Limits:
    limits = stage.given.get("limits")
    return limits if isinstance(limits, Limits) else Limits()
