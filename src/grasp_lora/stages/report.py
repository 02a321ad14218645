"""The report of a run: its tables, pictures and page."""

from pathlib import Path
from typing import Any

from grasp_lora.reporting.reading import read_found
from grasp_lora.reporting.write import write_report
from grasp_lora.workspace.stage import Work

__all__ = ["REPORT"]


def report(resources: Any, folder: Path, **given: Any) -> None:
    """Write the report.

    Args:
        given: See `reporting.reading.read_found`.
    """
    write_report(folder, read_found(**given, name=folder.resolve().parent.name))


REPORT = Work(report)
