"""Readers of the official file formats, by the names that cards use."""

from grasp_lora.data.sources.base import BadRow as BadRow
from grasp_lora.data.sources.base import Reader as Reader
from grasp_lora.data.sources.base import Record as Record
from grasp_lora.data.sources.base import Unsuitable as Unsuitable
from grasp_lora.data.sources.bloomberg import BLOOMBERG
from grasp_lora.data.sources.jstage import JSTAGE
from grasp_lora.data.sources.latex import LATEX
from grasp_lora.data.sources.mimic import MIMIC
from grasp_lora.data.sources.scitldr import SCITLDR
from grasp_lora.data.sources.squad import SQUAD
from grasp_lora.data.sources.table import CSV, JSONL, PARQUET
from grasp_lora.data.sources.wikilingua import WIKILINGUA
from grasp_lora.data.sources.xlsum import XLSUM

__all__ = ["READERS", "BadRow", "Reader", "Record", "Unsuitable"]

READERS: dict[str, Reader] = {
    "bloomberg": BLOOMBERG,
    "csv": CSV,
    "jsonl": JSONL,
    "jstage": JSTAGE,
    "latex": LATEX,
    "mimic": MIMIC,
    "parquet": PARQUET,
    "scitldr": SCITLDR,
    "squad": SQUAD,
    "wikilingua": WIKILINGUA,
    "xlsum": XLSUM,
}
