"""The ratio that a learning run's log teaches by another rule than its own."""

from pathlib import Path
from typing import Any

from grasp_lora.control.noise import Look
from grasp_lora.control.rounds import read_rounds
from grasp_lora.control.selection import select_ratio
from grasp_lora.control.settings import Control
from grasp_lora.control.warnings import warnings_of
from grasp_lora.workspace.records import LearnedRatio
from grasp_lora.workspace.stage import Work

__all__ = ["SELECT"]


def select(resources: Any, folder: Path, *, learned: Path, control: Control) -> None:
    """Leaves `LearnedRatio`; nothing is trained or probed again.

    Args:
        learned: The learning run's folder.
        control: The rule and its margin are read, and the policy's bounds.
    """
    rounds = read_rounds(learned)
    found = select_ratio(rounds, control.select, control.margin)
    look, own = Look.read(learned), LearnedRatio.read(learned)
    about_p = look if look is not None and look.p == found.best_ratio else None
    warnings = warnings_of(found.best_ratio, rounds, control.p_min, control.p_max, about_p)
    if look is not None and about_p is None:
        warnings.append(f"p* = {found.best_ratio:.3f} is not among the ratios that were looked at on dev")
    LearnedRatio(
        found.best_ratio,
        adapters=own.adapters,
        reward=found.best_reward,
        rule=found.rule,
        rounds=len(rounds),
        warnings=warnings,
    ).write(folder)


SELECT = Work(select)
