"""A run's folder into `Found`: from what the report's stage is given, or from the folder alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from grasp_lora.control.halving import RUNGS_FILE, HalvingResult
from grasp_lora.control.measured import CURVE_FILE, MeasuredCurve
from grasp_lora.control.rounds import ROUNDS_FILE
from grasp_lora.errors import GraspError
from grasp_lora.ratios import PruneRatio
from grasp_lora.reporting.compare import read_results, reference_of
from grasp_lora.reporting.found import Found, together
from grasp_lora.reporting.logs import config_of, mapping_of, names_of
from grasp_lora.reporting.trained import Learned, Trained
from grasp_lora.workspace.records import (
    EVALUATIONS,
    REPORT,
    DevLosses,
    Done,
    LearnedRatio,
    MeasuredDeployment,
    Pruned,
    RankCheck,
)
from grasp_lora.workspace.rows import Row

__all__ = ["read_found", "read_run"]


def read_found(
    *,
    rows: Sequence[Path],
    reference: str,
    sources: Mapping[str, Path],
    learned: Mapping[str, Sequence[tuple[Path, Path]]],
    tests: Mapping[str, Sequence[Path]],
    searched: Mapping[str, Mapping[PruneRatio, tuple[Path, Path | None]]],
    rank_check: Path | None,
    deployed: Mapping[str, Path],
    trained: Mapping[str, Path],
    control: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Sequence[Path]] | None = None,
    halved: Mapping[str, Sequence[Path]] | None = None,
    missing: Sequence[str] = (),
    name: str = "",
) -> Found:
    """What is in these folders.

    Args:
        rows: Folders of evaluations, in the order to show.
        reference: The method that the others are compared with.
        sources: Label -> the folder of a source's adapter that was trained here.
        learned: Method -> for each draw the folders of its learning run and of what p* is from.
        tests: Further test set -> folders of the evaluations on it.
        searched: Method -> ratio or threshold -> the folders of the training at it, and of its dev scores.
        deployed: Method's title -> the folder of a deployment's measurement.
        trained: Method -> the folder of its adapter, of the first draw and seed.
        control: The controller's settings.
        variants: Method -> those that it learns with instead.
        curves: Method -> for each draw the folder of its training of all ratios.
        halved: Method -> for each draw the folder of its halving.
        missing: What is not there yet.
        name: The run's.

    Raises:
        GraspError: A file is not there, or is not such a file.
    """
    return Found(
        results=together([_row(row) for row in rows]),
        sources={label: DevLosses.read(made).best for label, made in sources.items() if _has_dev(made)},
        reference=reference,
        learned={method: tuple(Learned.read(*pair) for pair in pairs) for method, pairs in learned.items()},
        curves={
            method: tuple(MeasuredCurve.read(made) for made in several)
            for method, several in (curves or {}).items()
        },
        halved={
            method: tuple(HalvingResult.read(made) for made in several)
            for method, several in (halved or {}).items()
        },
        tests={test: together([_row(row) for row in found]) for test, found in tests.items()},
        searched={
            method: {at: _point(*folders) for at, folders in points.items()}
            for method, points in searched.items()
        },
        rank_check=RankCheck.read(rank_check) if rank_check else None,
        deployed={title: MeasuredDeployment.read(made) for title, made in deployed.items()},
        trained={method: Trained.read(made) for method, made in trained.items()},
        variants={
            method: {key: value for key, value in settings.items() if value != control.get(key)}
            for method, settings in variants.items()
        },
        missing=tuple(missing),
        name=name,
    )


def _row(folder: Path) -> Row:
    row = Row.read(folder)
    if not all(map(math.isfinite, (*row.test_losses, *row.dev_losses, row.dev_loss or 0.0))):
        raise GraspError(f"{folder} has a loss that is not a finite number: nothing can be compared with it")
    return row


def _has_dev(folder: Path) -> bool:
    return (folder / DevLosses.FILE).exists()


def _point(made: Path, scored: Path | None) -> dict[str, float]:
    scores = {} if scored is None else Row.read(scored).scores
    return {"dev_loss": DevLosses.read(made).best} | {k: one["value"] for k, one in scores.items()}


def read_run(run: Path) -> Found:
    """Of a run's folder alone, whether it has ended or not.

    Raises:
        GraspError: Nothing was evaluated there yet, or a file is damaged.
    """
    results = read_results(run)
    folders = {id(row): folder for row, folder in _folders(run, [r for one in results for r in one.rows])}
    asked, config = _asked(run), config_of(run)
    variants = mapping_of(config, "variants")
    order = sorted(results, key=lambda one: _place(asked, one.rows[0], folders[id(one.rows[0])]))
    names = [one.method for one in order]
    first = {one.method: one.rows[0] for one in order}
    learned = {one.method: pairs for one in order if (pairs := _learning(run, one.draws))}
    curves = {one.method: made for one in order if (made := _with(CURVE_FILE, run, one.draws))}
    halved = {one.method: made for one in order if (made := _with(RUNGS_FILE, run, one.draws))}
    usual = reference_of(run)
    if usual not in names:  # no report yet: the last one that learns, but no variant
        own = [name for name in learned if name not in variants]
        usual = own[-1] if own else names[0]
    checks = sorted(run.glob(f"*/{RankCheck.FILE}")) + sorted(run.glob(f"*/*/{RankCheck.FILE}"))
    labels = {label for row in first.values() for label in row.source_losses}
    return read_found(
        rows=[folders[id(row)] for one in order for row in one.rows],
        reference=usual,
        sources={label: run / "adapters" / label for label in labels if (run / "adapters" / label).is_dir()},
        learned=learned,
        tests=_tests(run, [row for one in order for row in one.rows]),
        searched={name: points for name, row in first.items() if len(points := _points(run, row)) > 1},
        rank_check=checks[0].parent if checks else None,
        deployed={
            first[path.parent.parent.name].title: path.parent
            for path in sorted(run.glob(f"deployment/*/*/{MeasuredDeployment.FILE}"))
            if path.parent.parent.name in first
        },
        trained={
            name: run / row.adapter
            for name, row in first.items()
            if row.adapter and row.made_by and (run / row.adapter).is_dir()
        },
        control=mapping_of(config, "control"),
        variants={name: one for name, one in variants.items() if isinstance(one, dict)},
        curves=curves,
        halved=halved,
        missing=_missing(run, asked, names),
        name=run.resolve().name,
    )


def _folders(run: Path, rows: Sequence[Row]) -> Iterator[tuple[Row, Path]]:
    for row in rows:
        draw = f"draws/{row.draw}/" if row.draw else ""
        yield row, run / f"{draw}{EVALUATIONS}" / row.method / f"seed{row.seed}"


def _asked(run: Path) -> list[str]:
    """The methods of the run's config, in its order; nothing where it says `all`, or is not there."""
    found = config_of(run)
    named = names_of(found, "methods")
    return [] if named == ["all"] else [*named, *mapping_of(found, "variants")]


def _place(asked: Sequence[str], row: Row, folder: Path) -> tuple[bool, int, float]:
    """A method's place among those that were asked for, refits last. A name may stand for several, as `sweep`
    does: these were evaluated in their order.
    """
    fitting = [i for i, name in enumerate(asked) if row.method == name or row.method.startswith(f"{name}_")]
    place = max(fitting, key=lambda i: len(asked[i])) if fitting else len(asked)
    scores = folder / Row.SCORES_FILE
    return bool(row.refit_of), place, scores.stat().st_mtime if scores.exists() else 0.0


def _missing(run: Path, asked: Sequence[str], names: Sequence[str]) -> list[str]:
    studies = {path.parent.name.replace("-", "_") for path in run.glob(f"*/{RankCheck.FILE}")}
    found = [
        name
        for name in asked
        if name not in studies and not any(has == name or has.startswith(f"{name}_") for has in names)
    ]
    if not found and not (run / REPORT / Done.FILE).exists():
        return ["the rest of its stages: it has not ended"]
    return found


def _learning(run: Path, draws: Mapping[int, Sequence[Row]]) -> list[tuple[Path, Path]]:
    found = []
    for rows in draws.values():
        made = [run / name for name in chain(rows[0].all_costs or {}, rows[0].costs)]
        learning = next((folder for folder in made if (folder / ROUNDS_FILE).exists()), None)
        if learning is None or rows[0].refit_of:
            continue
        beside = sorted(learning.parent.glob(f"*/{LearnedRatio.FILE}"))
        ratios = [path.parent for path in beside if _is_at(path.parent, rows[0].p)]
        found.append((learning, learning if learning in ratios or not ratios else ratios[0]))
    return found


def _with(file: str, run: Path, draws: Mapping[int, Sequence[Row]]) -> list[Path]:
    found = []
    for rows in draws.values():
        made = (run / name for name in chain(rows[0].all_costs or {}, rows[0].costs))
        if not rows[0].refit_of:
            found += [folder for folder in made if (folder / file).exists()][:1]
    return found


def _is_at(folder: Path, p: PruneRatio | None) -> bool:
    return p is not None and LearnedRatio.read(folder).p == p


def _points(run: Path, row: Row) -> dict[PruneRatio, tuple[Path, Path | None]]:
    """What was trained at each ratio or threshold of a grid, and its dev scores."""
    found: dict[PruneRatio, tuple[Path, Path | None]] = {}
    for name in row.costs:
        pruned = Pruned.of(run / name)
        at = pruned.p if pruned.threshold is None else pruned.threshold
        is_choice = (run / name / LearnedRatio.FILE).exists()
        if at is not None and row.exhaustive and _has_dev(run / name) and not is_choice:
            scored = run / "dev" / name
            found[at] = (run / name, scored if (scored / Row.SCORES_FILE).exists() else None)
    return found


def _tests(run: Path, rows: Sequence[Row]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for place in sorted(run.glob("tests/*")):
        made = [run / f"draws/{row.draw}" if row.draw else run for row in rows]
        scored = [
            at / "tests" / place.name / row.method / f"seed{row.seed}"
            for at, row in zip(made, rows, strict=True)
        ]
        if there := [path for path in scored if (path / Row.SCORES_FILE).exists()]:
            found[place.name] = there
    return found
