"""Readers of the official file formats, by the names that cards use."""

from grasp_lora.tasks.sources.base import BadRow as BadRow
from grasp_lora.tasks.sources.base import Reader as Reader
from grasp_lora.tasks.sources.base import Record as Record
from grasp_lora.tasks.sources.base import Unsuitable as Unsuitable
from grasp_lora.tasks.sources.squad import SQUAD
from grasp_lora.tasks.sources.table import CSV, JSONL, PARQUET
from grasp_lora.tasks.sources.xlsum import XLSUM

__all__ = ["READERS", "BadRow", "Reader", "Record", "Unsuitable"]

READERS: dict[str, Reader] = {
    "csv": CSV,
    "jsonl": JSONL,
    "parquet": PARQUET,
    "squad": SQUAD,
    "xlsum": XLSUM,
}
