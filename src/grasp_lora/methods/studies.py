"""Questions about the methods."""

from grasp_lora.methods.method import Study
from grasp_lora.methods.searched import grid_points
from grasp_lora.methods.start import Start
from grasp_lora.stages.rank_check import RANK_CHECK
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.training import Fixed

__all__ = ["STUDIES"]


def _rank_check(x: Start) -> Stage:
    """Does the micro-dev reward rank ratios as the finished grid does?"""
    control = x.config.control
    points = grid_points(x, "grid", lambda p: Fixed(p, control.unit))
    given = {**x.learning("gaussian", control), "points": points}
    return Stage(f"learn/rank_check-seed{x.config.seed}", RANK_CHECK, given)


STUDIES = (Study("rank_check", _rank_check, shown="rank_check"),)
