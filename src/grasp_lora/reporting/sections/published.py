"""Our scores beside those that the papers report, on the tasks that both have."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from grasp_lora.reporting.blocks import Block, Table, show_spread
from grasp_lora.reporting.found import Found

RATIO = "p"  # in percent, as the papers have it


def blocks(found: Found) -> Iterator[Block]:
    row = found.compared.rows[0]
    for one in published():
        if (one["task"], one["target"]) != (row.task, row.target):
            continue
        rows = []
        for result in found.results:
            theirs = one["methods"].get(result.method, {})
            for metric in (RATIO, *found.metrics):
                if metric in theirs and (metric == RATIO or result.has(metric)):
                    value = "" if metric == RATIO else show_spread(result.spread(metric), 2)
                    if metric == RATIO and isinstance(result.p, float):
                        value = f"{100 * result.p:.2f}"
                    rows.append([result.title, metric, value, str(theirs[metric])])
        if rows:
            title = f"Beside {one['paper']} (their backbone is Llama 3 8B; yours may be another):"
            yield Table(title, ["method", "metric", "this run", "the paper"], rows, "published")


@cache
def published() -> Sequence[Any]:
    """What `published.yaml` has: for each task and target language, method -> metric -> value."""
    text = (files("grasp_lora.reporting") / "published.yaml").read_text(encoding="utf-8")
    found: Sequence[Any] = yaml.safe_load(text)
    return found
