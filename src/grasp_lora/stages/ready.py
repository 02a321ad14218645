"""What would stop a run after hours of training is said before it."""

from grasp_lora.stages.evaluate import score_answers
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.optuna_ratio import import_optuna

__all__ = ["check_ready"]

_CONTROLLED = frozenset({"grasp", "random", "rank_check"})


def check_ready(inputs: Inputs) -> None:
    """Look at the data, the metrics' libraries and encoder, and what the methods need.

    Raises:
        GraspError: Splits overlap or are too small, a metric is unknown, or something is not installed.
    """
    config = inputs.config
    inputs.check_target_splits()
    for method in (*_CONTROLLED.intersection(config.methods), *config.variants):
        inputs.micro_dev(inputs.control(method).micro_dev)
    if inputs.metrics:
        score_answers(inputs, ["a"], [["a"]])
    if "optuna" in config.methods:
        import_optuna()
