"""A run in a few tables of text, which are also Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from grasp_lora.metrics.score import Spread
from grasp_lora.metrics.significance import Comparison
from grasp_lora.reporting.results import LOSSES, MethodResult

__all__ = [
    "comparison_table",
    "cost_table",
    "deployment_table",
    "loss_table",
    "metric_table",
    "predictions",
    "rank_table",
    "table",
]

SIGNIFICANT = 0.05
MIB = 2**20


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that reads well in a terminal; the first column is text, the others numbers."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([line(headers), rule, *map(line, rows)])


def loss_table(results: Sequence[MethodResult], against: Mapping[str, Comparison], reference: str) -> str:
    """Dev and test loss of every method, and its test loss compared with the reference's.

    Args:
        against: Method -> comparison on test loss, of the reference (first) with the method (second).
        reference: The reference's title.
    """
    rows = []
    for result in results:
        found = against.get(result.method)
        difference = ["", ""] if found is None else [f"{found.difference:+.4f}", _p_value(found)]
        losses = [_spread(result.spread(name), 4) for name in ("dev_loss", "test_loss")]
        rows.append([result.title, "" if result.p is None else f"{result.p:.3f}", *losses, *difference])
    headers = ["method", "p", "dev", "test"]
    if against:
        return table([*headers, f"test − {reference}", "p-value"], rows)
    return table(headers, [row[:4] for row in rows])


def metric_table(
    results: Sequence[MethodResult], metrics: Sequence[str], against: Mapping[str, Sequence[Comparison]]
) -> str:
    """Metrics of the answers; a star where the difference to the reference is hardly luck (p < 0.05)."""
    rows = []
    for result in results:
        stars = {c.metric for c in against.get(result.method, ()) if c.p_value < SIGNIFICANT}
        rows.append(
            [result.title, *(_spread(result.spread(m), 2) + ("*" if m in stars else "") for m in metrics)]
        )
    return table(["method", *metrics], rows)


def cost_table(results: Sequence[MethodResult]) -> str:
    """What each method took beyond the two adapters and their sum, and how much less it is than the grid."""
    grid = next((result for result in results if result.method == "grid"), None)
    rows = []
    for result in results:
        if not result.passes():
            continue
        faster = ["", ""]
        if grid is not None:
            faster = [
                f"{grid.cost('seconds') / result.cost('seconds'):.2f}",
                f"{grid.passes() / result.passes():.2f}",
            ]
        peak = (result.cost("peak_gpu_memory_bytes") or result.cost("peak_memory_bytes")) / MIB
        rows.append(
            [
                result.title,
                f"{result.cost('forward_examples'):.0f}",
                f"{result.cost('backward_examples'):.0f}",
                f"{result.cost('seconds'):.0f}",
                f"{peak:.0f}",
                *faster,
            ]
        )
    headers = ["method", "forward", "backward", "seconds", "peak MiB", "speedup, time", "speedup, passes"]
    return table(headers if grid is not None else headers[:5], [row[: 7 if grid else 5] for row in rows])


def comparison_table(found: Sequence[Comparison], first: str, second: str) -> str:
    """Two methods under every metric."""
    rows = []
    for c in found:
        digits = 4 if c.metric in LOSSES else 2
        low_high = "" if c.interval is None else "[{:+.{d}f}, {:+.{d}f}]".format(*c.interval, d=digits)
        values = [f"{c.first:.{digits}f}", f"{c.second:.{digits}f}", f"{c.difference:+.{digits}f}"]
        rows.append([c.metric, *values, low_high, _p_value(c)])
    headers = ["metric", first, second, "difference", "95 %", "p-value"]
    if not any(c.interval for c in found):
        headers, rows = [h for h in headers if h != "95 %"], [row[:4] + row[5:] for row in rows]
    return table(headers, rows)


def rank_table(check: Mapping[str, Any]) -> str:
    """The micro-dev reward's ranking of ratios against the trained grid's, by optimizer step."""
    ratios = list(check["dev_loss"])
    rows = [["dev loss after fine-tuning", *(f"{check['dev_loss'][p]:.4f}" for p in ratios), ""]]
    for found in check["rounds"]:
        rho = "" if found["rho"] is None else f"{found['rho']:+.2f}"
        rewards = [f"{found['rewards'][p]:.4f}" for p in ratios]
        rows.append([f"micro-dev reward, step {found['step']}", *rewards, rho])
    return table(["p", *(f"{float(p):.2f}" for p in ratios), "Spearman's ρ"], rows)


def deployment_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What the methods' models take, the adapter beside the backbone and merged into it."""
    rows = []
    for title, one in found.items():
        size = one["adapter"]
        on_disk = (
            ["", ""] if size is None else [f"{size['file_bytes'] / MIB:.2f}", f"{size['nonzero_share']:.0%}"]
        )
        for name in ("unmerged", "merged"):
            if (form := one[name]) is None:
                continue
            rate = form["tokens_per_second"]
            rows.append(
                [
                    f"{title}{' (in the base)' if name == 'merged' else ''}",
                    *on_disk,
                    f"{form['adapter_load_seconds'] + form['merge_seconds']:.2f}",
                    f"{form['first_token_seconds'] * 1000:.0f}",
                    "" if rate is None else f"{rate:.1f}",
                    f"{form['peak_bytes'] / MIB:.0f}",
                ]
            )
    headers = ["method", "MiB on disk", "not zero", "load s", "first token ms", "tokens/s", "peak MiB"]
    return table(headers, rows)


def predictions(rows: Sequence[Mapping[str, str]]) -> str:
    """Answers beside their references, one block per example."""
    return "\n\n".join("\n".join(f"- {name}: {text}" for name, text in row.items()) for row in rows)


def _spread(value: Spread, digits: int) -> str:
    std = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{std}"


def _p_value(found: Comparison) -> str:
    return "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"
