"""What a report shows, in its order: one file each, with `blocks(found)`."""

from collections.abc import Callable, Iterator

from grasp_lora.reporting.blocks import Block
from grasp_lora.reporting.found import Found
from grasp_lora.reporting.sections import (
    answers,
    costs,
    deploy,
    deployment,
    learned,
    losses,
    metrics,
    rank_check,
    searched,
    tests,
    warnings,
)

__all__ = ["SECTIONS"]

SECTIONS: tuple[Callable[[Found], Iterator[Block]], ...] = (
    deploy.blocks,
    warnings.blocks,
    learned.blocks,
    losses.blocks,
    metrics.blocks,
    tests.blocks,
    costs.blocks,
    searched.blocks,
    rank_check.blocks,
    deployment.blocks,
    answers.blocks,
)
