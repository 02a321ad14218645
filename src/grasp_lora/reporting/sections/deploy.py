"""The verdict, before anything else."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Text
from grasp_lora.reporting.found import Found
from grasp_lora.reporting.verdict import verdict


def blocks(found: Found) -> Iterator[Block]:
    yield Text("\n\n".join(verdict(found.results).lines))
