"""What stages say of themselves on an adapter's card, one sentence or two each, from what they were given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grasp_lora.control.settings import Control
from grasp_lora.lm.adapters import Lora
from grasp_lora.lm.training import Training
from grasp_lora.workspace.inputs import Rows
from grasp_lora.workspace.records import DevLosses, LearnedRatio, Pruned
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.training import EveryStep, Fixed

__all__ = ["about_learning", "about_training", "named"]


def about_training(
    folder: Path,
    *,
    start: Any,
    train: Rows,
    training: Training,
    seed: int,
    mask: Fixed | EveryStep | None = None,
    beside: Any = (),
    **_: Any,
) -> str:
    """From where, on what, how long, at which rate, under which mask, and which epoch was kept."""
    if isinstance(start, Lora):
        modules = start.target_modules
        where = modules if isinstance(modules, str) else _listed(modules)
        own = "".join(f", {key}: {getattr(start, key)}" for key in _OF_PEFT if not start.is_unset(key))
        said = (
            f"A new adapter (rank {start.r}, alpha {start.alpha:g}{own}, dropout {start.dropout:g}, "
            f"on {where}) was trained on {_rows(train)}"
        )
    else:
        given = "" if isinstance(start, Stage) else f" {_public_name(start)}"
        said = f"The adapter{given} was trained on {_rows(train)}"
    if isinstance(beside, Rows):
        said += f", with as many of {_rows(beside)} in each step"
    said += f" ({_how(training)}; seed {seed})"
    if mask is not None:
        said += f", {_under(mask, Pruned.of(folder))}"
    return f"{said}.{_kept(folder, training)}"


def about_learning(folder: Path, *, train: Rows, control: Control, training: Training, **_: Any) -> str:
    """By what the ratio was learned."""
    found = LearnedRatio.read(folder)
    return (
        f"The ratio was learned on {_rows(train)} ({_how(training)}), a controller round every "
        f"{control.every} steps, {found.rounds} rounds, from the loss on {control.micro_dev} micro-dev rows "
        f"(rule: {found.rule})."
    )


def named(adapters: Mapping[str, Any]) -> str:
    """Labels of adapters that were trained here, and names of those that were given."""
    return _listed(
        [
            name if isinstance(one, Stage) else f"{name} ({_public_name(one)})"
            for name, one in adapters.items()
        ]
    )


def _listed(names: Sequence[Any]) -> str:
    """a, b and c."""
    *most, last = map(str, names)
    return f"{', '.join(most)} and {last}" if most else last


def _public_name(adapter: str | Path) -> str:
    """Of an adapter that was given: its name on the hub, or its folder's alone, never a path."""
    path = Path(adapter)
    for part in path.parts:
        if part.startswith("models--"):  # the hub's cache: models--OWNER--NAME/snapshots/COMMIT
            return part.removeprefix("models--").replace("--", "/") + f"@{path.name[:7]}"
    return path.name


def _rows(rows: Rows) -> str:
    return f"{rows.task.name}'s {rows.language} rows"


_OF_PEFT = ("use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights")


def _how(training: Training) -> str:
    length = f"{training.epochs} epochs" if training.max_steps is None else f"{training.max_steps} steps"
    batch = training.batch_size * training.gradient_accumulation
    decay = training.lr_decay_per_epoch
    rate = f"{training.learning_rate:g}" + (f", times {decay:g} per epoch" if decay != 1.0 else "")
    if training.lr_scheduler is not None:
        rate += f", {training.lr_scheduler} schedule, warmup {training.warmup:g}"
    optimizer = "AdamW" if training.optimizer == "adamw_torch" else training.optimizer
    return f"at most {length}, batches of {batch}, {optimizer}, learning rate {rate}"


def _under(mask: Fixed | EveryStep, pruned: Pruned) -> str:
    if isinstance(mask, Fixed):
        return f"pruned before the first step at p = {pruned.p or 0.0:.4g} and kept so"
    at = f"p = {pruned.p:.4g}" if pruned.p is not None else f"an importance of {pruned.threshold:g}"
    return f"pruned anew after every step at {at} (importance: {mask.how.importance})"


def _kept(folder: Path, training: Training) -> str:
    if not (folder / DevLosses.FILE).exists():
        return ""
    dev = DevLosses.read(folder)
    if dev.averaged:
        return f" Of its {dev.averaged} epochs the average was kept: dev loss {dev.best:.4f}."
    began = f" (before the first step: {dev.by_epoch[0]:.4f})" if dev.best_epoch else ""
    return (
        f" Of the epochs the one with the lowest dev loss was kept, number {dev.best_epoch}: {dev.best:.4f} "
        f"nats per target token{began}."
    )
