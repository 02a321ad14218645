"""The tables of a run, and the pictures of what was learned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grasp_lora.control.noise import Look
from grasp_lora.control.rounds import read_rounds
from grasp_lora.reporting.found import Found, Learned, together
from grasp_lora.reporting.write import write_report
from grasp_lora.workspace.records import DevLosses, LearnedRatio, MeasuredDeployment, RankCheck
from grasp_lora.workspace.rows import Row
from grasp_lora.workspace.stage import Work

__all__ = ["REPORT"]


def report(
    resources: Any,
    folder: Path,
    *,
    rows: Sequence[Path],
    sources: Mapping[str, Path],
    reference: str,
    learned: Mapping[str, Sequence[tuple[Path, Path]]],
    tests: Mapping[str, Sequence[Path]],
    searched: Mapping[str, Mapping[float, tuple[Path, Path | None]]],
    rank_check: Path | None,
    deployed: Mapping[str, Path],
) -> None:
    """Write the summary, tables as CSV, and pictures.

    Args:
        rows: Folders of evaluations, in the order to show.
        sources: Label -> the folder of a source's adapter that was trained here.
        reference: The method that the others are compared with.
        learned: Method -> for each draw the folders of its learning run and of what p* is from.
        tests: Further test set -> folders of the evaluations on it.
        searched: Method -> ratio or threshold -> the folders of the training at it, and of its dev scores.
        deployed: Title -> the folder of a deployment's measurement.
    """
    found = Found(
        results=together([Row.read(row) for row in rows]),
        sources={label: DevLosses.read(made).best for label, made in sources.items() if _has_dev(made)},
        reference=reference,
        learned={name: tuple(_learned(*pair) for pair in pairs) for name, pairs in learned.items()},
        tests={name: together([Row.read(row) for row in found]) for name, found in tests.items()},
        searched={
            name: {at: _point(*folders) for at, folders in points.items()}
            for name, points in searched.items()
        },
        rank_check=RankCheck.read(rank_check) if rank_check else None,
        deployed={title: MeasuredDeployment.read(made) for title, made in deployed.items()},
    )
    write_report(folder, found)


def _has_dev(folder: Path) -> bool:
    return (folder / DevLosses.FILE).exists()


def _learned(folder: Path, chosen: Path) -> Learned:
    ratio = LearnedRatio.read(chosen)
    return Learned(ratio.found, read_rounds(folder), tuple(ratio.warnings), Look.read(folder))


def _point(trained: Path, scored: Path | None) -> dict[str, float]:
    scores = {} if scored is None else Row.read(scored).scores
    return {"dev_loss": DevLosses.read(trained).best} | {k: one["value"] for k, one in scores.items()}


REPORT = Work(report)
