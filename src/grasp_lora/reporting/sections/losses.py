"""Losses of every method, what it was made with, and its test loss compared with the reference's."""

from collections.abc import Iterator, Sequence

from grasp_lora.metrics.score import over_seeds
from grasp_lora.metrics.significance import Comparison
from grasp_lora.ratios import PerAdapter, PruneRatio
from grasp_lora.reporting.blocks import Block, Bold, Data, Table, Text, show_p_value, show_spread
from grasp_lora.reporting.found import Found, MethodResult
from grasp_lora.workspace.rows import Row

SHARE_SEEN = 0.01
ENOUGH_DRAWS = 5
_REPEATED = {"final": "(final run)", "adapters": "(adapters too)"}


def _another_share(row: Row) -> bool:
    """Whether ties, or pruning at every step, pruned visibly another share than the ratio says."""
    if row.p is None or row.pruned_share is None:
        return False
    return isinstance(row.p, PerAdapter) or abs(row.p - row.pruned_share) > SHARE_SEEN


def blocks(found: Found) -> Iterator[Block]:
    sources = list(dict.fromkeys(name for result in found.results for name in result.rows[0].source_losses))
    draws = max(len(result.draws) for result in found.results)
    rows = [_cells(found, result, sources) for result in found.results]
    for name in ("dev", "test"):
        _mark_best(found, rows, name)
    headers = [name for name in rows[0] if name not in _hidden(found, draws)]
    title = "Loss on target tokens (nats; lower is better):"
    yield Table(title, headers, [[row[name] for name in headers] for row in rows], "losses")
    yield Text(_key(found, sources, draws))
    values = ("metric", "first_value", "second_value", "difference", "p_value", "holm", "signature")
    yield Data(
        "comparisons",
        ("first", "second", *values),
        [
            (found.reference_of(method), method, *_values(c), found.adjusted(c.metric)[method], c.signature)
            for method, comparisons in found.comparisons.items()
            for c in comparisons
        ],
    )


def _cells(found: Found, result: MethodResult, sources: Sequence[str]) -> dict[str, str]:
    """Header -> cell, of all columns that there may be."""
    row = result.rows[0]
    ratios = result.ratios if len(set(result.ratios)) > 1 else result.ratios[:1]
    on_loss = [c for c in found.comparisons.get(result.method, ()) if c.metric == "test_loss"]
    compared = ["", "", ""]
    if on_loss:
        p_values = (on_loss[0].p_value, found.adjusted("test_loss")[result.method])
        compared = [f"{on_loss[0].difference:+.4f}", *map(show_p_value, p_values)]
    kept = {name: result.source_loss(name) for name in sources}
    return {
        "method": result.title,
        "p": _ratio(ratios),
        "threshold": "" if row.threshold is None else f"{row.threshold:g}",
        "pruned": "" if row.pruned_share is None else f"{row.pruned_share:.2%}",
        "draws": str(len(result.draws)),
        "seeds": f"{len(result.draws[row.draw])} {_REPEATED.get(row.repeated, '')}".strip(),
        "rate": result.rate,
        "steps": result.steps,
        "choosing": "" if row.choosing_steps is None else str(row.choosing_steps),
        "labels": str(sum(row.labels.values()) or ""),
        **{f"{name} dev": "" if loss is None else f"{loss:.4f}" for name, loss in kept.items()},
        "dev": show_spread(result.spread("dev_loss"), 4) if result.has_dev else "",
        "test": show_spread(result.spread("test_loss"), 4),
        **dict(zip((f"test − {found.compared.title}", "p-value", "Holm"), compared, strict=True)),
    }


def _ratio(ratios: Sequence[PruneRatio]) -> str:
    """The mean and its deviation over draws; of one for each adapter those of the first draw."""
    if ratios and isinstance(ratios[0], PerAdapter):
        return f"{ratios[0]:.2f}"
    numbers = [p for p in ratios if isinstance(p, float)]
    return show_spread(over_seeds(numbers), 3) if numbers else ""


def _mark_best(found: Found, rows: Sequence[dict[str, str]], name: str) -> None:
    """In bold, as the papers have it: the lowest mean; of several refits none counts as dev."""
    means = {
        i: r.spread(f"{name}_loss").mean for i, r in enumerate(found.results) if name == "test" or r.has_dev
    }
    if len(means) > 1:
        best = min(means, key=means.__getitem__)
        rows[best][name] = Bold(rows[best][name])


def _hidden(found: Found, draws: int) -> set[str]:
    """The columns that would say nothing."""
    by_threshold = any(result.rows[0].threshold is not None for result in found.results)
    another_share = any(_another_share(result.rows[0]) for result in found.results)
    several_seeds = any(len(rows) > 1 for result in found.results for rows in result.draws.values())
    tested = len(found.adjusted("test_loss"))
    hidden = {
        "threshold": not by_threshold,
        "pruned": not (by_threshold or another_share),
        "draws": draws < 2,
        "rate": not any(result.rate for result in found.results),
        "seeds": not several_seeds,
        f"test − {found.compared.title}": not tested,
        "p-value": not tested,
        "Holm": tested < 2,
    }
    return {name for name, hide in hidden.items() if hide}


def _values(c: Comparison) -> tuple[str, float, float, float, float]:
    return c.metric, c.first, c.second, c.difference, c.p_value


def _key(found: Found, sources: Sequence[str], draws: int) -> str:
    """What the columns are."""
    text = (
        "steps: optimizer steps on target rows behind the adapter, up to the epochs that were kept; "
        "choosing: those spent to choose its ratio or the like; labels: labelled target rows that any of it "
        "looked at."
    )
    for name in sources:
        own = f", {found.sources[name]:.4f} with its own adapter" if name in found.sources else ""
        text += f" {name} dev: loss on the source's dev rows{own}; what is higher was forgotten."
    if not all(result.has_dev for result in found.results):
        text += " Without dev: trained on it, so that test alone can judge; compared with one that was, too."
    if any(result.rate for result in found.results):
        text += " rate: the learning rate of its last training, which dev chose."
    if draws > 1:
        few = f", and fewer than {ENOUGH_DRAWS} are an indication" if draws < ENOUGH_DRAWS else ""
        text += f" ±: over {draws} draws of the training rows{few}; p-values are over test rows alone."
    return text
