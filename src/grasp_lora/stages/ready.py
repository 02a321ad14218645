"""What would stop a run after hours of training is said before it."""

from grasp_lora.errors import GraspError
from grasp_lora.stages.evaluate import score_answers
from grasp_lora.stages.inputs import Inputs, adapter_digest, settings
from grasp_lora.stages.optuna_ratio import import_optuna

__all__ = ["check_ready"]


def check_ready(inputs: Inputs) -> None:
    """Look at the data, the metrics' libraries and encoder, and what the methods need.

    Raises:
        GraspError: Splits overlap or are too small, the learning run is shorter than a round, a metric is
            unknown, an adapter is missing, or something is not installed.
    """
    config = inputs.config
    inputs.check_target_splits()
    for method in config.controlled:
        control = inputs.control(method)
        inputs.micro_dev(control.micro_dev)
        train = inputs.examples(config.target, "train", config.target.train_examples)
        if control.every > (steps := settings(config.learn.training, config.seed).steps(len(train))):
            raise GraspError(
                f"{method} would make no round: every {control.every} steps, training takes {steps}"
            )
    if "lorahub" in config.methods:
        for folder in config.lorahub.adapters.values():
            adapter_digest(folder)
    if inputs.metrics:
        score_answers(inputs, ["a"], [["a"]])
    if "optuna" in config.methods:
        import_optuna()
