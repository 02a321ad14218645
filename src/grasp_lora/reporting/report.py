"""Reports of runs' folders, finished or not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.reporting.page import MADE_BY, PAGE_FILE
from grasp_lora.reporting.reading import read_run
from grasp_lora.reporting.write import write_report, write_reports

__all__ = ["report"]


def report(runs: Sequence[str | Path], to: str | Path | None = None) -> Path:
    """Make a page of what runs found, from their folders alone; they may be unfinished.

    Of several, those that cannot be read, or have no evaluation yet, are left out, and named on the page.

    Args:
        runs: Folders of runs.
        to: A folder for the page, its tables and figures, new or of an earlier report. None: `reports/NAME`,
            named after the first run, and how many more there are.

    Returns:
        The page.

    Raises:
        GraspError: No folder is a run's in which anything was evaluated, or `to` holds something else.
    """
    folders = list(dict.fromkeys(Path(run).resolve() for run in runs))
    names = [folder.name for folder in folders]
    found, left_out = [], []
    for folder in folders:
        name = folder.name if names.count(folder.name) == 1 else _longer(folder)
        try:
            found.append(replace(read_run(folder), name=name))
        except GraspError as error:
            if len(folders) == 1:
                raise
            left_out.append(f"{name}: {error}")
    if not found:
        raise GraspError("no run can be shown. " + "; ".join(left_out))
    more = f"-and-{len(found) - 1}-more" if len(found) > 1 else ""
    out = Path("reports") / f"{found[0].name}{more}" if to is None else Path(to)
    _check_is_ours(out)
    out.mkdir(parents=True, exist_ok=True)
    if len(folders) == 1:
        write_report(out, found[0])
    else:
        write_reports(out, found, left_out)
    return out / PAGE_FILE


def _check_is_ours(out: Path) -> None:
    """Only an earlier report is written over."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    page = out / PAGE_FILE
    if not page.is_file() or MADE_BY not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise GraspError(f"{out} is there, and is no report of ours: give --to a new folder")


def _longer(folder: Path) -> str:
    return "-".join(folder.parts[1:])
