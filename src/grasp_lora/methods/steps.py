"""The paper's steps one at a time, as the command line names them."""

from grasp_lora.config.tree import Side
from grasp_lora.methods.plan import METHODS
from grasp_lora.methods.start import Start
from grasp_lora.stages.learn import LEARN
from grasp_lora.workspace.stage import Stage, behind
from grasp_lora.workspace.training import Fixed

__all__ = ["adapter_of", "final_runs", "fixed_runs", "learning_run"]


def adapter_of(x: Start, side: Side) -> Stage | None:
    """What trains a side's adapter; None where it is given."""
    made = x.source if side is x.config.source else x.target
    return made if isinstance(made, Stage) else None


def final_runs(x: Start) -> list[Stage]:
    """GRASP's final runs, one per seed."""
    made = [METHODS["grasp"].adapter(x, seed) for seed in x.config.seeds]
    return [stage for stage in made if isinstance(stage, Stage)]


def learning_run(x: Start) -> Stage:
    """The run that GRASP's ratio comes from."""
    return next(stage for stage in behind(*final_runs(x)) if stage.work is LEARN)


def fixed_runs(x: Start, p: float) -> list[Stage]:
    """Final runs at a ratio that the user gives, one per seed."""
    mask = Fixed(p, x.config.control.unit)
    return [x.train(f"fixed/p{p:.2f}-seed{seed}", seed, start=x.merged, mask=mask) for seed in x.config.seeds]
