"""What methods and ways to choose the prune ratio are worth, over all runs of `configs/matrix/`.

    python benchmarks/matrix.py runs/matrix-*    rows of these runs to docs/results/matrix/, and the tables
    python benchmarks/matrix.py                  the tables over runs, of the rows that are there
    python benchmarks/matrix.py --each           those of every draw, too

Runs whose names end in a number of rows, or in `tuned`, are not in the tables over runs.

A run may be unfinished: what is evaluated counts. Rows are JSON lines, one for each method and draw; those of
methods that a run has not stay. `--take NAME` takes one method only, `--take NAME=OTHER` by another name.
"""

import argparse
import json
import math
import random
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grasp_lora.metrics.significance import approximate_randomisation
from grasp_lora.reporting.write import markdown
from grasp_lora.workspace.rows import Row

ROWS = Path(__file__).parents[1] / "docs/results/matrix"
UNPRUNED, POINT = "sweep_p0.00", r"sweep_p[\d.]+"
CHOOSERS = (
    "grid", "prune_after", "random", "optuna", "halving", "grasp", "by_curve", "sparsest", "curve",
    "curve_final", "cross_validate", "random_each", "optuna_each", "halving_each", "grasp_each",
)  # fmt: skip
FIRST = (
    "lora_target",
    "target_on",
    "sequential",
    "sequential_on",
    "joint",
    "merge",
    "merge_random",
    "prune_after",
)
VARIED = re.compile(r".*-(\d+|tuned)")  # runs with other numbers of rows, or rates
LIKE = ("sequential_on", "curve", "curve_final", "halving", "halving_each", "grasp_each")  # titles of others
KEPT = ("method", "title", "seed", "draw", "p", "steps", "choosing_steps", "labels", "dev_loss", "folds")
SIGNIFICANT = 0.05


def export(run: Path, taken: Mapping[str, str] | None = None) -> None:
    """A run's evaluations as lines of `NAME.jsonl`: of all methods, or of those taken, by new names."""
    path = ROWS / f"{run.name}.jsonl"
    old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines = {(row["method"], row["draw"]): row for row in map(json.loads, old)}
    for place in sorted(run.glob("eval/*/seed*")) + sorted(run.glob("draws/*/eval/*/seed*")):
        if not place.name[4:].isdigit() or not (place / Row.SCORES_FILE).exists():
            continue
        row = Row.read(place)
        whole = row.whole_cost
        if taken and row.method not in taken:
            continue
        method = taken[row.method] if taken else row.method
        lines[method, row.draw] = (
            {name: getattr(row, name) for name in KEPT}
            | {"method": method}
            | {"source_losses": {k: round(v, 4) for k, v in row.source_losses.items()}}
            | {"passes": None if whole is None else whole.passes, "choosing_passes": row.choosing_passes}
            | {"minutes": None if whole is None else round(whole.seconds / 60, 1)}
            | {"test_losses": [round(loss, 4) for loss in row.test_losses], "groups": list(row.groups)}
        )
    ROWS.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values())
    path.write_text(text, encoding="utf-8")


def read(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """(Run, draw) -> method -> row."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found.setdefault((path.stem, row["draw"]), {})[row["method"]] = row
    return found


def regret(losses: Sequence[float], points: Iterable[Sequence[float]], groups: Sequence[str]) -> float:
    """How much worse than the best of some ratios: that is chosen on one half of the clusters and compared on
    the other, then the other way round, so that no ratio is best by the luck of the rows that compare it.
    """
    names = [group or str(i) for i, group in enumerate(groups or [""] * len(losses))]
    clusters = list(dict.fromkeys(names))
    first = set(random.Random(0).sample(clusters, len(clusters) // 2))
    halves = [[i for i, name in enumerate(names) if (name in first) == side] for side in (True, False)]
    points, found = list(points), []
    for choosing, comparing in (halves, halves[::-1]):
        best = min(points, key=lambda one: _mean(one, choosing))
        found.append(_mean(losses, comparing) - _mean(best, comparing))
    return statistics.fmean(found)


def _mean(losses: Sequence[float], rows: Sequence[int]) -> float:
    return statistics.fmean(losses[i] for i in rows)


def summary(cells: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """One row for each way to choose a ratio, over all runs and draws that have it and the trained ratios."""
    rows = []
    complete = {key: cell for key, cell in cells.items() if UNPRUNED in cell}
    for name in ("(any of the ratios)", *CHOOSERS):
        differences, regrets = _ByRun(), _ByRun()
        passes, worse, better, ratios, like = [], 0, 0, [], [0, 0]
        for (run, _), cell in complete.items():
            points = [row["test_losses"] for method, row in cell.items() if re.fullmatch(POINT, method)]
            zero = cell[UNPRUNED]
            if name in cell:
                own = cell[name]["test_losses"]
                difference, told = compared(cell[name], zero)
                worse, better = worse + (told > 0), better + (told < 0)
                passes.append(cell[name]["choosing_passes"])
                ratios.append(cell[name]["p"])
                if (grid := cell.get("grid")) is not None:
                    same = approximate_randomisation(grid["test_losses"], own, groups=zero["groups"])
                    like = [like[0] + (same >= SIGNIFICANT), like[1] + 1]
                differences.add(run, difference)
                regrets.add(run, regret(own, points, zero["groups"]))
            elif name not in CHOOSERS:
                means = [statistics.fmean(point) for point in points]
                differences.add(run, statistics.fmean(means) - statistics.fmean(zero["test_losses"]))
                regrets.add(run, statistics.fmean(regret(one, points, zero["groups"]) for one in points))
        if differences.by_run:
            spread = [f"{min(ratios):.2f} to {max(ratios):.2f}"] if _are_numbers(ratios) else [""]
            cost = [f"{statistics.fmean(passes):.0f}", f"{worse}, {better}"] if passes else ["0", ""]
            cost.append(f"{like[0]} of {like[1]}" if like[1] else "")
            rows.append([name, str(differences), *spread, differences.mean, regrets.mean, *cost])
    headers = ["chosen by", "runs, draws", "p", "test − p = 0", "regret", "passes choosing", "worse, better"]
    return markdown([*headers, "as the grid"], rows)


def compared(row: Mapping[str, Any], zero: Mapping[str, Any]) -> tuple[float, int]:
    """How much more test loss it has, and 1 or -1 where that is more or less than chance makes, else 0."""
    own, other = row["test_losses"], zero["test_losses"]
    difference = statistics.fmean(own) - statistics.fmean(other)
    p_value = approximate_randomisation(other, own, groups=zero["groups"])
    return difference, (p_value < SIGNIFICANT) * (1 if difference > 0 else -1)


def trainings(cells: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """One row for each method, over all draws of all runs: its test loss less that of the merge."""
    runs = dict.fromkeys(run for run, _ in cells)
    names = dict.fromkeys(name for cell in cells.values() for name in cell if name != UNPRUNED)
    rows = []
    for name in sorted(names, key=_place):
        made = {key: cell for key, cell in cells.items() if name in cell and UNPRUNED in cell}
        if not made:
            continue
        whole, told = _ByRun(), []
        for (run, _), cell in made.items():
            difference, one = compared(cell[name], cell[UNPRUNED])
            whole.add(run, difference)
            told.append(one)
        means = [statistics.fmean(whole.by_run.get(run, [math.nan])) for run in runs]
        each = ["" if math.isnan(mean) else f"{mean:+.3f}" for mean in means]
        counts = [str(whole), f"{told.count(1)}, {told.count(-1)}"]
        first = next(iter(made.values()))[name]
        title = first["title"] + (f" ({name})" if name in LIKE else "")
        steps = f"{first['steps']} + {first['choosing_steps']}"
        rows.append([title, steps, str(sum(first["labels"].values())), whole.mean, *counts, *each])
    headers = ["method", "steps + choosing", "labels", "test − merge", "runs, draws", "worse, better"]
    return markdown([*headers, *(run.removeprefix("matrix-") for run in runs)], rows)


def _are_numbers(ratios: Sequence[Any]) -> bool:
    return bool(ratios) and all(isinstance(one, float) for one in ratios)


class _ByRun:
    """Values of the draws of several runs. Draws share test rows: the error of a mean is over runs."""

    def __init__(self) -> None:
        self.by_run: dict[str, list[float]] = {}

    def add(self, run: str, value: float) -> None:
        self.by_run.setdefault(run, []).append(value)

    def __str__(self) -> str:
        return f"{len(self.by_run)}, {sum(map(len, self.by_run.values()))}"

    @property
    def mean(self) -> str:
        """The mean of the runs' means, with its standard error where there are several."""
        means = [statistics.fmean(values) for values in self.by_run.values()]
        error = f" ± {statistics.stdev(means) / math.sqrt(len(means)):.4f}" if len(means) > 1 else ""
        return f"{statistics.fmean(means):+.4f}{error}"


def methods_of(cell: Mapping[str, Any]) -> str:
    """The methods of one draw of a run: what lies behind each, its losses, and the difference to p = 0."""
    zero = statistics.fmean(cell[UNPRUNED]["test_losses"])
    rows = []
    for name in sorted(cell, key=_place):
        row = cell[name]
        test, p = statistics.fmean(row["test_losses"]), row["p"]
        if not re.fullmatch(POINT, name) or p:
            known = [_ratio(p), row["steps"], row["choosing_steps"]]
            losses = [*row["source_losses"].values(), row["dev_loss"], test]
            shown = [*map(str, known), str(sum(row["labels"].values())), *map(_loss, losses)]
            rows.append([row["title"], *shown, f"{test - zero:+.4f}"])
    (sources,) = {tuple(row["source_losses"]) for row in cell.values()}
    on_dev = [f"{name} dev" for name in sources]
    headers = ["method", "p", "steps", "choosing", "labels", *on_dev, "dev", "test", "test − p = 0"]
    return markdown(headers, rows)


def _ratio(p: float | Sequence[float] | None) -> str:
    """One for each adapter, where they have their own."""
    each = [] if p is None else [p] if isinstance(p, float) else p
    return ", ".join(f"{one:.3f}" for one in each)


def _loss(value: float | None) -> str:
    """A refit has no dev loss: it was trained on those rows."""
    return "" if value is None else f"{value:.4f}"


def _place(method: str) -> tuple[int, str]:
    """As one would read them: what is simple, what is merged, ratios, ways to choose one."""
    name, refit = method.removesuffix("_refit"), method.endswith("_refit")
    if name in FIRST:
        place = FIRST.index(name)
    else:
        place = len(FIRST) + (CHOOSERS.index(name) + 1 if name in CHOOSERS else 0)
    return place + refit * (len(FIRST) + len(CHOOSERS) + 1), method


def main() -> None:
    """Read the runs, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--take", action="append", default=[], metavar="NAME[=OTHER]")
    parser.add_argument("--each", action="store_true", help="the tables of all draws")
    given = parser.parse_args()
    for run in given.runs:
        export(run, {name: other or name for name, _, other in (one.partition("=") for one in given.take)})
    known = read(ROWS)
    for (run, draw), cell in known.items():
        if (given.each or run in [one.name for one in given.runs]) and UNPRUNED in cell:
            print(f"{run}, draw {draw}\n\n{methods_of(cell)}\n")
    same = {(run, draw): cell for (run, draw), cell in known.items() if not VARIED.fullmatch(run)}
    print(f"{trainings(same)}\n\n{summary(same)}")


if __name__ == "__main__":
    main()
