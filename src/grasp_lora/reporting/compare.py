"""Evaluated methods side by side, of one run or of several: under every metric, with a significance test."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.metrics.significance import Comparison, Test
from grasp_lora.reporting.blocks import show_p_value, show_spread
from grasp_lora.reporting.found import LOSSES, MethodResult, compare_methods, together
from grasp_lora.reporting.write import markdown
from grasp_lora.workspace.rows import Row

__all__ = ["comparison", "overview", "read_results"]

EVALUATIONS = "eval"
SIGNIFICANT = 0.05


def read_results(
    run: Path, method: str | None = None, seeds: Sequence[int] | None = None
) -> list[MethodResult]:
    """What was evaluated in a run directory: one method, or all; with these seeds, or all that are there.

    Raises:
        GraspError: Nothing of it was.
    """
    folders = (run / EVALUATIONS / (method or "")).glob("seed*" if method else "*/seed*")
    numbers = {path: int(path.name[4:]) for path in folders if path.name[4:].isdigit()}  # not: replaced ones
    rows = [
        Row.read(path)
        for path, seed in sorted(numbers.items(), key=lambda one: (one[0].parent.name, one[1]))
        if (seeds is None or seed in seeds) and (path / Row.SCORES_FILE).exists()
    ]
    if not rows:
        known = ", ".join(sorted(path.name for path in (run / EVALUATIONS).glob("*"))) or "none"
        raise GraspError(f"{run} has no evaluation of '{method or 'anything'}'; evaluated are: {known}")
    return [replace(result, run=str(run)) for result in together(rows)]


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
    and a mark where a method differs from `against` with p < 0.05.

    Raises:
        GraspError: They were not tested on the same rows.
    """
    metrics = _common([against, *(result for result in results if result is not against)])
    values = [[result.spread(metric) for metric in metrics] for result in results]
    best = [
        (min if metric in LOSSES else max)(row[i].mean for row in values) for i, metric in enumerate(metrics)
    ]
    rows = []
    for name, result, row in zip(_names(results), results, values, strict=True):
        cells = []
        for metric, value, top in zip(metrics, row, best, strict=True):
            shown = show_spread(value, _digits(metric))
            shown = f"**{shown}**" if value.mean == top else shown
            differs = result is not against and (
                compare_methods(against, result, metric, test=test).p_value < SIGNIFICANT
            )
            cells.append(shown + (" †" if differs else ""))
        rows.append([name, "" if result.p is None else f"{result.p:.3f}", str(len(result.rows)), *cells])
    reference = _names(results)[[result is against for result in results].index(True)]
    marks = f"Best in bold; † differs from {reference} with p < {SIGNIFICANT} ({test}, not corrected for how "
    return f"{marks}many are compared).\n\n{markdown(['method', 'p', 'seeds', *metrics], rows)}"


def _common(results: Sequence[MethodResult]) -> list[str]:
    """The test loss and the metrics that all have; they must have been tested on the same rows."""
    first = results[0]
    for other in results[1:]:
        if difference := _other_rows(first.rows[0], other.rows[0]):
            one, two = _names([first, other])
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
    several = len({result.run for result in results}) > 1
    return [f"{Path(result.run).name}:{result.method}" if several else result.method for result in results]


def _digits(metric: str) -> int:
    return 4 if metric in LOSSES else 2


def _table(found: Sequence[Comparison], first: str, second: str) -> str:
    rows = []
    for c in found:
        digits = _digits(c.metric)
        low_high = "" if c.interval is None else "[{:+.{d}f}, {:+.{d}f}]".format(*c.interval, d=digits)
        values = [f"{c.first:.{digits}f}", f"{c.second:.{digits}f}", f"{c.difference:+.{digits}f}"]
        rows.append([c.metric, *values, low_high, show_p_value(c)])
    headers = ["metric", first, second, "difference", "95 %", "p-value"]
    if not any(c.interval for c in found):
        headers, rows = [h for h in headers if h != "95 %"], [row[:4] + row[5:] for row in rows]
    return markdown(headers, rows)
