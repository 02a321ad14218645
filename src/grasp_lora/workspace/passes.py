"""For plans: the most example passes of a training, which `cost.count_passes` counts as it goes on."""

import math
from collections.abc import Sequence
from typing import Any

from grasp_lora.control.draws import ratios_between
from grasp_lora.control.settings import Control, Curve
from grasp_lora.lm.training import Training
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.training import EveryStep, Fixed

__all__ = ["passes_of_curve", "passes_of_learning", "passes_of_training"]


LOOKED_AT = 2  # ratios on dev after the last step: p* and 0, and two neighbours of each of its ratios


def passes_of_training(
    *,
    train: Sequence[Example],
    dev: Sequence[Example] | None,
    training: Training,
    mask: Fixed | EveryStep | None = None,
    beside: Sequence[Example] = (),
    **_: Any,
) -> int:
    """The most example passes of `fine_tune`: where it does not stop early."""
    steps = training.steps(len(train))
    evaluations = 1 if training.average else 1 + math.ceil(steps / training.steps_per_epoch(len(train)))
    if isinstance(mask, EveryStep) and (mask.how.importance, mask.how.rescore) == ("input", "validation"):
        evaluations += math.ceil(steps / mask.how.rescore_every)
    return (4 if beside else 2) * _examples(training, train) + evaluations * len(dev or ())


def passes_of_learning(
    *,
    train: Sequence[Example],
    micro_dev: Sequence[Example],
    dev: Sequence[Example] | None,
    training: Training,
    control: Control,
    adapters: int | None = None,
    **_: Any,
) -> int:
    """The most example passes of `learn`."""
    rounds = training.steps(len(train)) // control.every
    look = 0 if dev is None else (LOOKED_AT + 2 * (adapters or 1)) * (len(dev) + len(micro_dev))
    return 2 * _examples(training, train) + rounds * (control.candidates + 1) * len(micro_dev) + look


def passes_of_curve(
    *,
    train: Sequence[Example],
    micro_dev: Sequence[Example],
    training: Training,
    how: Curve,
    adapters: int,
    **_: Any,
) -> int:
    """The example passes of a training that teaches every ratio."""
    measured = ratios_between(how.p_min, how.p_max, how.ratios, adapters)
    return 2 * _examples(training, train) + len(measured) * len(micro_dev)


def _examples(training: Training, train: Sequence[Example]) -> int:
    """How often training sees an example."""
    if training.max_steps is None:
        return training.epochs * len(train)
    return training.max_steps * training.batch_size * training.gradient_accumulation
