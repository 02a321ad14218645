"""Evaluated methods side by side, of one run or of several: under every metric, with a significance test."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.metrics.significance import Comparison, Test, holm
from grasp_lora.reporting.blocks import SIGNIFICANT, show_p_value, show_spread, show_stars
from grasp_lora.reporting.found import LOSSES, MethodResult, compare_methods, together
from grasp_lora.reporting.logs import config_of, mapping_of
from grasp_lora.reporting.write import markdown
from grasp_lora.workspace.records import DRAWS_FOLDER, EVALUATIONS, REPORT, Done
from grasp_lora.workspace.rows import Row

__all__ = ["comparison", "overview", "read_results", "reference_of"]


def read_results(
    run: Path, method: str | None = None, seeds: Sequence[int] | None = None
) -> list[MethodResult]:
    """What was evaluated in a run directory: one method, or all.

    Args:
        seeds: Of the run; None: those of the config that it was last run with. What other seeds have left
            there does not count, but for a method that has no other.

    Raises:
        GraspError: Nothing of it was.
    """
    if not run.is_dir():
        raise GraspError(f"{run} is no run's folder: there is none of that name")
    config = config_of(run)
    asked, many = config.get("seeds"), mapping_of(config, "target").get("draws")
    seeds = (asked if isinstance(asked, list) else []) if seeds is None else seeds
    there = [int(path.name) for path in run.glob(f"{DRAWS_FOLDER}/*") if path.name.isdecimal()]
    draws = [f"{DRAWS_FOLDER}/{n}/" for n in sorted(there) if isinstance(many, int) and 0 < n < many]
    found: dict[str, dict[int, list[Path]]] = {}
    for place in ("", *draws):
        for path in (run / f"{place}{EVALUATIONS}").glob(f"{method or '*'}/seed*"):
            if path.name[4:].isdigit() and (path / Row.SCORES_FILE).exists():  # not: replaced ones
                found.setdefault(path.parent.name, {}).setdefault(int(path.name[4:]), []).append(path)
    if not found:
        known = ", ".join(sorted(path.name for path in (run / EVALUATIONS).glob("*"))) or "none"
        what = f" of '{method}'" if method else ""
        raise GraspError(f"{run} has no evaluation{what}; evaluated are: {known}")
    results: list[MethodResult] = []
    for _, by_seed in sorted(found.items()):
        own = [seed for seed in seeds if isinstance(seed, int) and seed in by_seed] or sorted(by_seed)
        results += together([Row.read(path) for seed in own for path in by_seed[seed]])
    return [replace(result, run=str(run)) for result in results]


def reference_of(run: Path) -> str | None:
    """The method that the run's own report compares with; None where there is no report."""
    folder = run / REPORT
    return Done.read(folder).inputs.get("reference") if (folder / Done.FILE).exists() else None


def comparison(first: MethodResult, second: MethodResult, test: Test = "randomisation") -> str:
    """A table of two methods' test loss and the metrics that both have, their difference and its p-value.

    Raises:
        GraspError: They were not tested on the same rows.
    """
    metrics = _common([first, second])
    found = [compare_methods(first, second, metric, test=test) for metric in metrics]
    return _table(found, *_names([first, second]))


def overview(results: Sequence[MethodResult], against: MethodResult, test: Test = "randomisation") -> str:
    """A table of several methods, of whatever runs: losses and the metrics that all have, the best in bold,
    and stars where a method differs from `against`.

    Raises:
        GraspError: They were not tested on the same rows.
    """
    _common([against, *results])
    metrics = ["test_loss", *dict.fromkeys(name for result in results for name in result.metrics)]
    columns = [_column(metric, results, against, test) for metric in metrics]
    rows = [
        [name, _pruned_at(result), str(len(result.rows)), *cells]
        for name, result, *cells in zip(_names(results), results, *columns, strict=True)
    ]
    reference = _names(results)[list(results).index(against)]
    marks = f"Best in bold; * differs from {reference} with p < {SIGNIFICANT} ({test}), ** also after "
    return f"{marks}Holm's correction for all of them.\n\n{markdown(['method', 'p', 'runs', *metrics], rows)}"


def _column(metric: str, results: Sequence[MethodResult], against: MethodResult, test: Test) -> list[str]:
    """The cells of a metric; "–" where a method was not scored with it."""
    means = [r.spread(metric).mean for r in results if _has(r, metric)]
    best = min(means) if metric in LOSSES else max(means)
    others = [r for r in results if r != against and _has(r, metric) and _has(against, metric)]
    p_values = [compare_methods(against, other, metric, test=test).p_value for other in others]
    marks = [show_stars(*pair) for pair in zip(p_values, holm(p_values), strict=True)]
    cells = []
    for result in results:
        if not _has(result, metric):
            cells.append("–")
            continue
        value = result.spread(metric)
        shown = show_spread(value, _digits(metric))
        shown = f"**{shown}**" if value.mean == best else shown
        star = marks[others.index(result)] if result in others else ""
        cells.append(f"{shown} {star}".rstrip())
    return cells


def _has(result: MethodResult, metric: str) -> bool:
    return metric in LOSSES or metric in result.metrics


def _pruned_at(result: MethodResult) -> str:
    if result.p is None:
        threshold = result.rows[0].threshold
        return "" if threshold is None else f"under {threshold:g}"
    return f"{result.p:.3f}"


def _common(results: Sequence[MethodResult]) -> list[str]:
    """The test loss and the metrics that all have; they must have been tested on the same rows."""
    first = results[0]
    for result in results:
        for row in result.rows:
            if difference := _other_rows(first.rows[0], row):
                one, two = _names([first, result])
                raise GraspError(f"{one} and {two} cannot be compared: {difference}")
    return ["test_loss", *(name for name in first.metrics if all(name in r.metrics for r in results))]


def _other_rows(one: Row, other: Row) -> str:
    """How the test rows differ; evaluations of before did not note which they were."""
    if len(one.test_losses) != len(other.test_losses):
        return f"one was tested on {len(one.test_losses)} rows, the other on {len(other.test_losses)}"
    if one.test_rows and other.test_rows and one.test_rows != other.test_rows:
        return "they were tested on other rows"
    answered = [[(answer.id, answer.prompt_hash) for answer in row.answers] for row in (one, other)]
    return "" if answered[0] == answered[1] else "they answered other prompts"


def _names(results: Sequence[MethodResult]) -> list[str]:
    runs = {result.run for result in results}
    short = len({Path(run).name for run in runs}) == len(runs)
    shown = {run: Path(run).name if short else run for run in runs}
    return [f"{shown[r.run]}:{r.method}" if len(runs) > 1 else r.method for r in results]


def _digits(metric: str) -> int:
    return 4 if metric in LOSSES else 2


def _table(found: Sequence[Comparison], first: str, second: str) -> str:
    rows = []
    for c in found:
        digits = _digits(c.metric)
        low_high = "" if c.interval is None else "[{:+.{d}f}, {:+.{d}f}]".format(*c.interval, d=digits)
        values = [f"{c.first:.{digits}f}", f"{c.second:.{digits}f}", f"{c.difference:+.{digits}f}"]
        rows.append([c.metric, *values, low_high, show_p_value(c.p_value)])
    headers = ["metric", first, second, "difference", "95 %", "p-value"]
    if not any(c.interval for c in found):
        headers, rows = [h for h in headers if h != "95 %"], [row[:4] + row[5:] for row in rows]
    return markdown(headers, rows)
