"""SciTLDR: JSON Lines with `source` (sentences of a paper), `target` (its TLDRs) and `paper_id`."""

from collections.abc import Iterator, Mapping
from typing import Any

from grasp_lora.data.sources.base import Options, Reader, Record, text, texts
from grasp_lora.tasks.files import json_rows

__all__ = ["SCITLDR"]


def _records(values: Mapping[str, Any], options: Options, default_id: str) -> Iterator[Record]:
    """The paper's sentences as one text. The first TLDR is the author's; all are references."""
    tldrs = texts(values, "target")
    sentences = " ".join(" ".join(texts(values, "source")).split())
    yield Record(text(values, "paper_id"), {"text": sentences, "tldr": tldrs[0], "tldrs": tldrs})


SCITLDR = Reader(json_rows, _records)
