"""The stages of a run that are not finished: how far they are, and whether anybody is making them."""

from dataclasses import dataclass
from pathlib import Path

from grasp_lora.control.rounds import Round
from grasp_lora.reporting.logs import latest_log, numbers, read_so_far, rounds_so_far
from grasp_lora.workspace.claims import worked_in
from grasp_lora.workspace.files import changed_at
from grasp_lora.workspace.lock import QUIET, is_held
from grasp_lora.workspace.records import Trial
from grasp_lora.workspace.unfinished import PARTIAL, begun_in, is_over

__all__ = ["Making", "making_in"]


@dataclass(frozen=True, slots=True)
class Making:
    """A stage that is not finished.

    Attributes:
        changed: When anything in its folder last changed.
        held: Whether a process holds it; None where that cannot be known.
        alive: Whether it is being made: it is held, or something has just changed.
        steps: Optimizer steps that its training will take, where the log says so.
        losses: On the training rows, of each line of the log.
        dev_losses: Before the first step, and of each epoch.
        trials: Finished ones of a search.
    """

    name: str
    changed: float
    held: bool | None
    alive: bool
    step: int | None
    steps: int | None
    losses: tuple[float, ...]
    dev_losses: tuple[float, ...]
    rounds: tuple[Round, ...]
    trials: int


def making_in(root: Path, name: str, now: float) -> Making | None:
    """How far the stage is that is made in the folder `name`; None where that is gone by now."""
    folder = root / name
    held, inside = is_held(folder), worked_in(folder)
    lines = latest_log(inside)
    changed = max([changed_at(folder), *map(changed_at, (*folder.glob("*"), *inside.glob("*")))])
    if not changed_at(folder):
        return None
    over = held is False and begun_in(folder) is not None and is_over(root)
    steps = numbers(lines, "max_steps")
    reached = numbers(lines, "step")
    return Making(
        name=name.removesuffix(PARTIAL),
        changed=changed,
        held=held,
        alive=bool(held) or (now - changed < QUIET and not over),
        step=int(reached[-1]) if reached else None,
        steps=int(steps[-1]) if steps else None,
        losses=numbers(lines, "loss"),
        dev_losses=numbers(lines, "dev_loss"),
        rounds=rounds_so_far(inside),
        trials=len(read_so_far(inside / Trial.FILE)),
    )
