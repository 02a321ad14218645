"""What a report shows, in its order: one file each, with `blocks(found)`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from grasp_lora.reporting.blocks import Block
from grasp_lora.reporting.found import Found
from grasp_lora.reporting.sections import (
    ablations,
    adapters,
    answers,
    costs,
    curve,
    curves,
    deploy,
    deployment,
    halved,
    importance,
    learned,
    losses,
    metrics,
    published,
    quality,
    rank_check,
    ratios,
    searched,
    tests,
    warnings,
)

__all__ = ["SECTIONS", "Section"]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page, whose texts and tables are in the summary, too."""

    title: str
    blocks: Callable[[Found], Iterator[Block]]


SECTIONS = (
    Section("Verdict", deploy.blocks),
    Section("Warnings", warnings.blocks),
    Section("Learned ratio", learned.blocks),
    Section("Losses", losses.blocks),
    Section("Answers scored", metrics.blocks),
    Section("Settings", ablations.blocks),
    Section("Beside the papers", published.blocks),
    Section("Further test sets", tests.blocks),
    Section("Loss over the ratio", ratios.blocks),
    Section("One ratio for each adapter", adapters.blocks),
    Section("Every ratio from one training", curve.blocks),
    Section("Halving", halved.blocks),
    Section("What was pruned", importance.blocks),
    Section("Quality and cost", quality.blocks),
    Section("Costs", costs.blocks),
    Section("Points of the grids", searched.blocks),
    Section("Reward and loss", rank_check.blocks),
    Section("Training", curves.blocks),
    Section("Deployment", deployment.blocks),
    Section("Answers", answers.blocks),
)
