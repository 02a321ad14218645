"""Losses of every method, what it was made with, and its test loss compared with the reference's."""

from collections.abc import Iterator, Sequence

from grasp_lora.metrics.score import over_seeds
from grasp_lora.metrics.significance import Comparison
from grasp_lora.reporting.blocks import Block, Data, Table, Text, show_p_value, show_spread
from grasp_lora.reporting.found import LOSSES, Found
from grasp_lora.workspace.rows import Row

SHARE_SEEN = 0.01
ENOUGH_DRAWS = 5
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
    draws = max(len(result.draws) for result in found.results)
    columns += ["draws"] if draws > 1 else []
    if any(len(rows) > 1 for result in found.results for rows in result.draws.values()):
        columns.append("seeds")
    sources = list(dict.fromkeys(name for result in found.results for name in result.rows[0].source_losses))
    holm = found.adjusted("test_loss")
    for result in found.results:
        losses = [
            "" if name == "dev_loss" and not result.has_dev else show_spread(result.spread(name), 4)
            for name in LOSSES
        ]
        kept = [f"{loss:.4f}" if (loss := result.source_loss(name)) is not None else "" for name in sources]
        on_loss = [c for c in found.comparisons.get(result.method, ()) if c.metric == "test_loss"]
        tested = tested or bool(on_loss)
        difference = ["", "", ""]
        if on_loss:
            p_values = (on_loss[0].p_value, holm[result.method])
            difference = [f"{on_loss[0].difference:+.4f}", *map(show_p_value, p_values)]
        row = result.rows[0]
        steps = ["" if n is None else str(n) for n in (row.steps, row.choosing_steps)]
        made_with = [*steps, str(sum(row.labels.values()) or "")]
        ratios = result.ratios if len(set(result.ratios)) > 1 else result.ratios[:1]
        p = show_spread(over_seeds(ratios), 3) if ratios else ""
        seeds = f"{len(result.draws[row.draw])} {_REPEATED.get(row.repeated, '')}".strip()
        threshold = "" if row.threshold is None else f"{row.threshold:g}"
        share = "" if row.pruned_share is None else f"{row.pruned_share:.2%}"
        shown = {
            "p": p,
            "threshold": threshold,
            "pruned": share,
            "seeds": seeds,
            "draws": str(len(result.draws)),
        }
        rows.append(
            [result.title, *(shown[name] for name in columns), *made_with, *kept, *losses, *difference]
        )
    compared = [f"test − {found.compared.title}", "p-value", "Holm"]
    headers = [
        "method",
        *columns,
        "steps",
        "choosing",
        "labels",
        *(f"{name} dev" for name in sources),
        "dev",
        "test",
        *compared,
    ]
    width = len(headers) - (0 if len(holm) > 1 else 1 if tested else 3)
    title = "Loss on target tokens (nats; lower is better):"
    yield Table(title, headers[:width], [row[:width] for row in rows])
    yield Text(_key(found, sources, draws))
    values = ("metric", "first_value", "second_value", "difference", "p_value", "holm", "signature")
    metrics = {c.metric for comparisons in found.comparisons.values() for c in comparisons}
    by_metric = {metric: found.adjusted(metric) for metric in metrics}
    yield Data(
        "comparisons",
        ("first", "second", *values),
        [
            (found.reference, method, *_values(c), by_metric[c.metric][method], c.signature)
            for method, comparisons in found.comparisons.items()
            for c in comparisons
        ],
    )


def _values(c: Comparison) -> tuple[str, float, float, float, float]:
    return c.metric, c.first, c.second, c.difference, c.p_value


def _key(found: Found, sources: Sequence[str], draws: int) -> str:
    """What the columns are."""
    text = (
        "steps: optimizer steps on target rows behind the adapter; choosing: those spent to choose its ratio "
        "or the like; labels: labelled target rows that any of it looked at."
    )
    for name in sources:
        own = f", {found.sources[name]:.4f} with its own adapter" if name in found.sources else ""
        text += f" {name} dev: loss on the source's dev rows{own}; what is higher was forgotten."
    if not all(result.has_dev for result in found.results):
        text += " Without dev: trained on it, so that test alone can judge; compared with one that was, too."
    if draws > 1:
        few = f", and fewer than {ENOUGH_DRAWS} are an indication" if draws < ENOUGH_DRAWS else ""
        text += f" ±: over {draws} draws of the training rows{few}; p-values are over test rows alone."
    return text
