"""Reports of runs' folders, finished or not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grasp_lora.reporting.page import PAGE_FILE
from grasp_lora.reporting.reading import read_run
from grasp_lora.reporting.write import write_report, write_reports

__all__ = ["report"]


def report(runs: Sequence[str | Path], to: str | Path | None = None) -> Path:
    """Make a page of what runs found, from their folders alone; they may be unfinished.

    Args:
        runs: Folders of runs.
        to: A folder for the page, its tables and figures; what is there of the same names is replaced. None:
            `reports/NAME`, named after the first run, and how many more there are.

    Returns:
        The page.

    Raises:
        GraspError: A folder is no run's, or nothing was evaluated there yet.
    """
    folders = list(dict.fromkeys(Path(run).resolve() for run in runs))
    names = [folder.name for folder in folders]
    found = [
        replace(read_run(folder), name=folder.name if names.count(folder.name) == 1 else _longer(folder))
        for folder in folders
    ]
    more = f"-and-{len(found) - 1}-more" if len(found) > 1 else ""
    folder = Path("reports") / f"{found[0].name}{more}" if to is None else Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    if len(found) == 1:
        write_report(folder, found[0])
    else:
        write_reports(folder, found)
    return folder / PAGE_FILE


def _longer(folder: Path) -> str:
    return "-".join(folder.parts[1:])
