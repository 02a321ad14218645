"""Several runs side by side: tasks, languages, sizes, settings."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from grasp_lora.reporting.blocks import SIGNIFICANT, Block, Bold, Data, Figure, Table, show_spread
from grasp_lora.reporting.drawing import BLUE, COLOURS, GREY, INK
from grasp_lora.reporting.found import LOSSES, Found, MethodResult
from grasp_lora.reporting.verdict import verdict_of

__all__ = ["across", "over_runs"]

COLUMNS = 8  # runs with a column each; more are shown by their means alone


def across(runs: Sequence[Found]) -> Iterator[Block]:
    """What several runs show together."""
    yield _verdicts(runs)
    titles = {one.method: one.title for found in runs for one in found.results}
    if len(runs) <= COLUMNS:
        metrics = ["test_loss", *dict.fromkeys(metric for found in runs for metric in found.metrics)]
        yield from (_by_run(runs, titles, metric) for metric in metrics)
    references = dict.fromkeys(found.reference for found in runs)
    for reference in references:
        differences = _differences([found for found in runs if found.reference == reference], reference)
        if max((len(seen) for seen in differences.values()), default=0) > 1:
            yield _summary(differences, titles, reference)
            yield Figure(
                f"differences_from_{reference}",
                lambda canvas, d=differences: _draw_differences(canvas, d, titles),  # type: ignore[misc]
                f"Test loss less that of {titles[reference]} in each run (grey) and on average, with one "
                "standard error over runs. Left of the line is better.",
                (8, 1.1 + 0.27 * len(differences)),
            )
    yield from _over_rows(runs, titles)
    yield Data("runs", (*_ABOUT, "labels", "metric", "value"), list(_values(runs)))


_ABOUT = ("run", "task", "source", "target", "method", "p", "steps", "draw", "seed")


def _values(runs: Sequence[Found]) -> Iterator[Sequence[Any]]:
    """Every loss and metric of every row, a line each."""
    for found in runs:
        for one in found.results:
            for row in one.rows:
                about = [found.name, *(getattr(row, name) for name in _ABOUT[1:]), sum(row.labels.values())]
                for metric in (*LOSSES, *one.metrics):
                    if metric != "dev_loss" or one.has_dev:
                        yield [*about, metric, one.value(row, metric)]


def _verdicts(runs: Sequence[Found]) -> Table:
    rows = []
    for found in runs:
        said = verdict_of(found)
        chosen = next(one for one in found.results if one.method == said.method)
        row = found.compared.rows[0]
        ratio = "" if found.compared.p is None else f"{found.compared.p:.3f}"
        dev = show_spread(chosen.spread("dev_loss"), 4) if chosen.has_dev else ""
        state = "unfinished" if found.missing else ""
        cells = [found.name, f"{row.task}, {row.source} → {row.target}", chosen.title, dev]
        rows.append([*cells, show_spread(chosen.spread("test_loss"), 4), ratio, state])
    headers = ["run", "task", "to deploy", "its dev", "its test", "learned p*", "state"]
    return Table(
        "What each run's verdict deploys (loss in nats; lower is better):", headers, rows, "verdicts"
    )


def _by_run(runs: Sequence[Found], titles: Mapping[str, str], metric: str) -> Table:
    """A column for each run: mean and deviation, the best in bold, stars against the run's reference."""
    columns = [_column(found, metric) for found in runs]
    rows = [[title, *(column.get(name, "") for column in columns)] for name, title in titles.items()]
    kind = "lower is better" if metric in LOSSES else "0 to 100"
    text = f"{metric} ({kind}; * differs from the run's reference with p < {SIGNIFICANT}, ** by Holm too):"
    rows = [row for row in rows if any(row[1:])]
    return Table(text, ["method", *(found.name for found in runs)], rows, f"main_{metric}")


def _column(found: Found, metric: str) -> dict[str, str]:
    shown = [one for one in found.results if metric in (*LOSSES, *one.metrics)]
    if not shown:
        return {}
    pick = min if metric in LOSSES else max
    best, holm = pick(one.spread(metric).mean for one in shown), found.adjusted(metric)
    cells: dict[str, str] = {}
    for one in shown:
        raw = [c.p_value for c in found.comparisons.get(one.method, ()) if c.metric == metric]
        stars = "" if not raw or raw[0] >= SIGNIFICANT else "*" if holm[one.method] >= SIGNIFICANT else "**"
        value = one.spread(metric)
        cell = show_spread(value, 4 if metric in LOSSES else 2) + stars
        cells[one.method] = Bold(cell) if value.mean == best else cell
    return cells


Differences = Mapping[str, Sequence[tuple[float, float | None]]]
"""Method -> of each run the difference in test loss to the reference, and its p-value by Holm."""


def _differences(runs: Sequence[Found], reference: str) -> Differences:
    found: dict[str, list[tuple[float, float | None]]] = {}
    for run in runs:
        own, holm = run.compared.spread("test_loss").mean, run.adjusted("test_loss")
        for one in run.results:
            # A refit is compared with the reference's refit: its p-value is of another difference.
            if one.method != reference and not one.rows[0].is_point and not one.rows[0].refit_of:
                difference = one.spread("test_loss").mean - own
                found.setdefault(one.method, []).append((difference, holm.get(one.method)))
    return found


def _summary(differences: Differences, titles: Mapping[str, str], reference: str) -> Table:
    rows = []
    for name, seen in differences.items():
        values, error = [value for value, _ in seen], _error([value for value, _ in seen])
        sure = [value for value, p in seen if p is not None and p < SIGNIFICANT]
        better, worse = sum(value < 0 for value in sure), sum(value > 0 for value in sure)
        mean = f"{statistics.fmean(values):+.4f}" + ("" if error is None else f" ± {error:.4f}")
        low_high = f"{min(values):+.4f} to {max(values):+.4f}"
        rows.append([titles[name], str(len(seen)), mean, low_high, str(better), str(worse)])
    headers = ["method", "runs", f"test − {titles[reference]}", "range", "surely better", "surely worse"]
    title = "Over runs: difference in test loss, mean and standard error; surely: p < 0.05 by Holm:"
    return Table(title, headers, rows, f"differences_from_{reference}")


def _error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def _draw_differences(canvas: Any, differences: Differences, titles: Mapping[str, str]) -> None:
    axes = canvas.subplots()
    ordered = sorted(differences, key=lambda name: -statistics.fmean(v for v, _ in differences[name]))
    for y, name in enumerate(ordered):
        values = [value for value, _ in differences[name]]
        axes.plot(values, [y] * len(values), "o", color=GREY, markersize=3.5, alpha=0.6)
        axes.errorbar(statistics.fmean(values), y, xerr=_error(values), marker="D", color=BLUE, capsize=3)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(ordered)), [titles[name] for name in ordered])
    axes.set(xlabel="test loss, difference in nats", ylim=(-0.6, len(ordered) - 0.4))
    axes.grid(visible=False, axis="y")


Sizes = Mapping[int, Sequence[MethodResult]]
"""Number of training rows -> a method's results in the runs that had so many."""


def _over_rows(runs: Sequence[Found], titles: Mapping[str, str]) -> Iterator[Block]:
    """Test loss over the number of training rows (ALM Fig. 6), where runs differ in it."""
    tasks: dict[str, dict[str, dict[int, list[MethodResult]]]] = {}
    for found in runs:
        for one in found.results:
            row = one.rows[0]
            if (rows := row.labels.get("train")) and not row.is_point:
                task = f"{row.task}, {row.source} → {row.target}"
                tasks.setdefault(task, {}).setdefault(one.method, {}).setdefault(rows, []).append(one)
    for number, (task, methods) in enumerate(tasks.items()):
        several = {name: sizes for name, sizes in methods.items() if len(sizes) > 1}
        if several:
            yield Figure(
                f"training_rows_{number + 1}",
                lambda canvas, s=several: _draw_over_rows(canvas, s, titles),  # type: ignore[misc]
                f"{task}: test loss over the number of training rows (ALM Fig. 6), the mean of runs with "
                "as many.",
            )


def _draw_over_rows(canvas: Any, several: Mapping[str, Sizes], titles: Mapping[str, str]) -> None:
    axes = canvas.subplots()
    for (name, sizes), colour in zip(several.items(), cycle(COLOURS), strict=False):
        x = sorted(sizes)
        y, error = zip(*(over_runs(sizes[rows]) for rows in x), strict=True)
        axes.errorbar(x, y, yerr=error, marker="o", markersize=4, color=colour, capsize=2, label=titles[name])
    axes.set(xscale="log", xlabel="training rows of the target", ylabel="test loss (nats)")
    ticks = sorted({rows for sizes in several.values() for rows in sizes})
    axes.set_xticks(ticks, [str(rows) for rows in ticks])
    axes.set_xticks([], minor=True)
    canvas.legend(loc="outside lower center", ncols=3)


def over_runs(results: Sequence[MethodResult]) -> tuple[float, float]:
    """Mean test loss, and its deviation: over runs, or of one run over its draws or seeds."""
    spreads = [one.spread("test_loss") for one in results]
    if len(spreads) == 1:
        return spreads[0].mean, spreads[0].std or 0.0
    means = [spread.mean for spread in spreads]
    return statistics.fmean(means), statistics.stdev(means)
