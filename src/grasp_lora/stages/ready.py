"""What would stop a run after hours of training is said before it."""

from grasp_lora.errors import GraspError
from grasp_lora.merging.reading import CONFIG_FILE, read_adapters, same_base_model
from grasp_lora.stages.evaluate import score_answers
from grasp_lora.stages.inputs import Inputs, settings
from grasp_lora.stages.optuna_ratio import import_optuna

__all__ = ["check_adapters", "check_ready"]


def check_adapters(inputs: Inputs) -> None:
    """Look at every adapter that the config names, before anything is trained.

    Raises:
        GraspError: One is missing, cannot be merged, or was trained on another model than the config's.
    """
    config = inputs.config
    given = {"source.adapter": config.source.adapter, "target.adapter": config.target.adapter}
    if "lorahub" in config.methods:
        given |= {f"lorahub.adapters.{name}": folder for name, folder in config.lorahub.adapters.items()}
    for adapter in read_adapters(found) if (found := {k: f for k, f in given.items() if f}) else ():
        base = adapter.config.base_model_name_or_path
        if base and not any(same_base_model(base, name) for name in (config.backbone, inputs.backbone_path)):
            raise GraspError(
                f"{adapter.name}: {given[adapter.name]} was trained on {base!r}, and backbone is "
                f"{config.backbone!r}. If they are the same model, write its name into the adapter's "
                f"{CONFIG_FILE} (base_model_name_or_path)"
            )


def check_ready(inputs: Inputs) -> None:
    """Look at the given adapters, the data, the metrics' libraries and encoder, and what the methods need.

    Raises:
        GraspError: An adapter is missing or of another model, splits overlap or are too small, the learning
            run
            is shorter than a round, a metric is unknown, or something is not installed.
    """
    config = inputs.config
    check_adapters(inputs)
    inputs.check_target_splits()
    for method in config.controlled:
        control = inputs.control(method)
        inputs.micro_dev(control.micro_dev)
        train = inputs.examples(config.target, "train", config.target.train_examples)
        if control.every > (steps := settings(config.learn.training, config.seed).steps(len(train))):
            raise GraspError(
                f"{method} would make no round: every {control.every} steps, training takes {steps}"
            )
    if inputs.metrics:
        score_answers(inputs, ["a"], [["a"]])
    if "optuna" in config.methods:
        import_optuna()
