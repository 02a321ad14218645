"""Optimizers and schedules, as `transformers.Trainer` calls and builds them."""

from importlib.util import find_spec
from typing import Any, Literal, get_args

from grasp_lora.errors import GraspError

__all__ = [
    "BY_ENTRY",
    "Optimizer",
    "Scheduler",
    "check_installed",
    "check_schedule",
    "without_decay",
]

Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "adafactor", "adagrad", "rmsprop", "sgd",
    "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit",
    "lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit",
]  # fmt: skip
"""The Trainer's names of those that need neither a backward pass nor an evaluation of their own kind."""
BY_ENTRY = ("adamw_torch", "adamw_torch_fused", "adagrad", "rmsprop", "sgd", "lion_32bit")
"""Those that remember each entry of a factor by itself, in a number that zero clears, where the masks are:
Adafactor sums over rows and columns, eight bits are codes of a block, and what is paged is elsewhere.
"""
Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt",
]  # fmt: skip
"""The Trainer's names of those that need neither more arguments nor evaluations."""


def check_schedule(scheduler: Scheduler | None, decay: float, warmup: float) -> None:
    """Only what can be meant together.

    Raises:
        ValueError: Two things that both set the rate, or one that would do nothing.
    """
    if scheduler is None and warmup:
        raise ValueError("warmup belongs to a schedule: name an lr_scheduler, such as linear")
    if scheduler == "constant" and warmup:
        raise ValueError("lr_scheduler: constant has no warmup: constant_with_warmup has")
    if scheduler is not None and decay != 1.0:
        raise ValueError(
            f"lr_scheduler: {scheduler} and lr_decay_per_epoch: {decay:g} both set the rate: leave one out "
            "(lr_decay_per_epoch: 1.0 where it is inherited)"
        )
    if warmup > 1 and not float(warmup).is_integer():
        raise ValueError("warmup is a share of all steps below 1, or a whole number of steps")


def check_installed(optimizer: Optimizer) -> None:
    """An optimizer may be in a package that is not here.

    Raises:
        GraspError: It is.
    """
    if "bit" in optimizer and find_spec("bitsandbytes") is None:
        torch_only = ", ".join(name for name in get_args(Optimizer) if "bit" not in name)
        raise GraspError(
            f"training.optimizer: {optimizer} needs bitsandbytes: pip install bitsandbytes, or take one of "
            f"{torch_only}"
        )


def without_decay(data: Any) -> Any:
    """Settings of a training in which a schedule takes the place of the decay that is the default."""
    if isinstance(data, dict) and data.get("lr_scheduler") is not None:
        return {"lr_decay_per_epoch": 1.0, **data}
    return data
