"""Metrics of the answers; a star where the difference to the reference is hardly luck."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Bold, Data, Table, show_spread, show_stars
from grasp_lora.reporting.found import LOSSES, Found


def blocks(found: Found) -> Iterator[Block]:
    yield Data(
        "scores",
        ("method", "draw", "seed", "metric", "value"),
        [
            (result.method, row.draw, row.seed, metric, result.value(row, metric))
            for result in found.results
            for row in result.rows
            for metric in (*LOSSES, *found.metrics)
            if result.has(metric) and (metric != "dev_loss" or result.has_dev)
        ],
    )
    if not found.metrics:
        return
    rows, holm = [], {metric: found.adjusted(metric) for metric in found.metrics}
    best = {
        metric: max(one.spread(metric).mean for one in found.results if one.has(metric))
        for metric in found.metrics
    }
    for result in found.results:
        against = found.comparisons.get(result.method, ())
        stars = {
            c.metric: show_stars(c.p_value, holm[c.metric][result.method])
            for c in against
            if c.metric in holm
        }
        cells = [result.title]
        for metric in found.metrics:
            if not result.has(metric):
                cells.append("")
                continue
            value = result.spread(metric)
            cell = show_spread(value, 2) + stars.get(metric, "")
            cells.append(Bold(cell) if value.mean == best[metric] else cell)
        rows.append(cells)
    mark = f"* differs from {found.compared.title} with p < 0.05, ** by Holm too; the best in bold"
    title = f"Answers to {len(found.compared.rows[0].answers)} test examples (0 to 100; {mark}):"
    yield Table(title, ["method", *found.metrics], rows, "metrics")
