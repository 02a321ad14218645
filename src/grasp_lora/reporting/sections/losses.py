"""Losses of every method, what it was made with, and its test loss compared with the reference's."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Data, Table, show_p_value, show_spread
from grasp_lora.reporting.found import LOSSES, Found
from grasp_lora.workspace.rows import Row

SHARE_SEEN = 0.01
_REPEATED = {"final": "(final run)", "adapters": "(adapters too)"}


def _another_share(row: Row) -> bool:
    """Whether ties, or pruning at every step, pruned visibly another share than the ratio says."""
    return None not in (row.p, row.pruned_share) and abs((row.p or 0) - (row.pruned_share or 0)) > SHARE_SEEN


def blocks(found: Found) -> Iterator[Block]:
    rows, tested = [], False
    columns = ["p"]
    if any(result.rows[0].threshold is not None for result in found.results):
        columns += ["threshold", "pruned"]
    elif any(_another_share(result.rows[0]) for result in found.results):
        columns.append("pruned")
    if any(len(result.rows) > 1 for result in found.results):
        columns.append("seeds")
    for result in found.results:
        losses = [show_spread(result.spread(name), 4) for name in LOSSES]
        on_loss = [c for c in found.comparisons.get(result.method, ()) if c.metric == "test_loss"]
        tested = tested or bool(on_loss)
        difference = [f"{on_loss[0].difference:+.4f}", show_p_value(on_loss[0])] if on_loss else ["", ""]
        row = result.rows[0]
        steps = ["" if n is None else str(n) for n in (row.steps, row.choosing_steps)]
        made_with = [*steps, str(sum(row.labels.values()) or "")]
        p = "" if result.p is None else f"{result.p:.3f}"
        seeds = f"{len(result.rows)} {_REPEATED.get(row.repeated, '')}".strip()
        threshold = "" if row.threshold is None else f"{row.threshold:g}"
        share = "" if row.pruned_share is None else f"{row.pruned_share:.2%}"
        shown = {"p": p, "threshold": threshold, "pruned": share, "seeds": seeds}
        rows.append([result.title, *(shown[name] for name in columns), *made_with, *losses, *difference])
    compared = [f"test − {found.compared.title}", "p-value"]
    headers = ["method", *columns, "steps", "choosing", "labels", "dev", "test", *compared]
    width = len(headers) - (0 if tested else 2)
    title = (
        "Loss on target tokens (nats; lower is better), with the optimizer steps on target rows behind each "
        "adapter, those spent on choosing its ratio, and the labelled target rows that any of it looked at:"
    )
    yield Table(title, headers[:width], [row[:width] for row in rows])
    values = ("metric", "first_value", "second_value", "difference", "p_value", "signature")
    yield Data(
        "comparisons",
        ("first", "second", *values),
        [
            (found.reference, method, c.metric, c.first, c.second, c.difference, c.p_value, c.signature)
            for method, comparisons in found.comparisons.items()
            for c in comparisons
        ],
    )
