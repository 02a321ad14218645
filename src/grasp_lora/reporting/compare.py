"""Two methods side by side, under every metric, with a significance test."""

from collections.abc import Sequence

from grasp_lora.metrics.significance import Comparison, Test
from grasp_lora.reporting.blocks import show_p_value
from grasp_lora.reporting.found import LOSSES, MethodResult, compare_methods
from grasp_lora.reporting.write import markdown

__all__ = ["comparison"]


def comparison(first: MethodResult, second: MethodResult, test: Test = "randomisation") -> str:
    """A table of two methods' test loss and the metrics that both have, their difference and its p-value."""
    metrics = ["test_loss", *(name for name in first.metrics if name in second.metrics)]
    found = [compare_methods(first, second, metric, test=test) for metric in metrics]
    return _table(found, first.method, second.method)


def _table(found: Sequence[Comparison], first: str, second: str) -> str:
    rows = []
    for c in found:
        digits = 4 if c.metric in LOSSES else 2
        low_high = "" if c.interval is None else "[{:+.{d}f}, {:+.{d}f}]".format(*c.interval, d=digits)
        values = [f"{c.first:.{digits}f}", f"{c.second:.{digits}f}", f"{c.difference:+.{digits}f}"]
        rows.append([c.metric, *values, low_high, show_p_value(c)])
    headers = ["metric", first, second, "difference", "95 %", "p-value"]
    if not any(c.interval for c in found):
        headers, rows = [h for h in headers if h != "95 %"], [row[:4] + row[5:] for row in rows]
    return markdown(headers, rows)
