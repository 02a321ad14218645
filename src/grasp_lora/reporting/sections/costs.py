"""What each method took beyond the two adapters and their sum, and how much less it is than the grid."""

from collections.abc import Iterator
from dataclasses import asdict

from grasp_lora.cost import PEAKS, SUMMED
from grasp_lora.reporting.blocks import Block, Data, Table
from grasp_lora.reporting.found import Found

MIB = 2**20


def blocks(found: Found) -> Iterator[Block]:
    names = (*SUMMED, *PEAKS)
    yield Data(
        "costs",
        ("method", "seed", *names),
        [
            (result.method, row.seed, *(asdict(row.cost)[name] for name in names))
            for result in found.results
            for row in result.rows
        ],
    )
    paid = [result for result in found.results if result.cost.passes]
    if not paid:
        return
    grid = next((result.cost for result in found.results if result.rows[0].exhaustive), None)
    rows = []
    for result in paid:
        cost = result.cost
        faster = (
            ["", ""]
            if grid is None
            else [f"{grid.seconds / cost.seconds:.2f}", f"{grid.passes / cost.passes:.2f}"]
        )
        peak = (cost.peak_gpu_memory_bytes or cost.peak_memory_bytes) / MIB
        rows.append(
            [
                result.title,
                f"{cost.forward_examples:.0f}",
                f"{cost.backward_examples:.0f}",
                f"{cost.seconds:.0f}",
                f"{peak:.0f}",
                *faster,
            ]
        )
    headers = ["method", "forward", "backward", "seconds", "peak MiB", "speedup, time", "speedup, passes"]
    width = len(headers) if grid else 5
    title = "Cost beyond the two adapters and their sum (example passes; one seed):"
    yield Table(title, headers[:width], [row[:width] for row in rows])
