"""The tables of a run, and the pictures of what was learned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grasp_lora.control.rounds import read_rounds
from grasp_lora.reporting.found import Found, Learned, together
from grasp_lora.reporting.write import write_report
from grasp_lora.workspace.records import LearnedRatio, MeasuredDeployment, RankCheck, Row
from grasp_lora.workspace.stage import Work

__all__ = ["REPORT"]


def report(
    resources: Any,
    folder: Path,
    *,
    rows: Sequence[Path],
    reference: str,
    learned: Path | None,
    rank_check: Path | None,
    deployed: Mapping[str, Path],
) -> None:
    """Write the summary, tables as CSV, and pictures.

    Args:
        rows: Folders of evaluations, in the order to show.
        reference: The method that the others are compared with.
        learned: The folder of GRASP's learning run.
        deployed: Title -> the folder of a deployment's measurement.
    """
    found = Found(
        results=together([Row.read(row) for row in rows]),
        reference=reference,
        learned=Learned(LearnedRatio.read(learned).p, read_rounds(learned)) if learned else None,
        rank_check=RankCheck.read(rank_check) if rank_check else None,
        deployed={title: MeasuredDeployment.read(made) for title, made in deployed.items()},
    )
    write_report(folder, found)


REPORT = Work(report)
