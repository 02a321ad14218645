"""Dev loss, and where they were asked for dev metrics, at each point of a grid (ALM Figs. 4 and 7)."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Data
from grasp_lora.reporting.found import Found


def blocks(found: Found) -> Iterator[Block]:
    rows = [
        (method, at, metric, value)
        for method, points in found.searched.items()
        for at, scores in sorted(points.items())
        for metric, value in scores.items()
    ]
    if rows:
        yield Data("points", ("method", "at", "metric", "dev"), rows)
