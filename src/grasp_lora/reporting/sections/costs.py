"""What each method took beyond the adapters and their sum, and its speedup over each grid (GRASP Table 5)."""

from collections.abc import Iterator
from dataclasses import asdict

from grasp_lora.cost import JOULES, PEAKS, SUMMED, Cost
from grasp_lora.reporting.blocks import Block, Data, Table
from grasp_lora.reporting.found import Found

MIB = 2**20
_PASSES = ("passes choosing", "passes with all")
_ENERGY = {"cpu_joules": "CPU kJ", "gpu_joules": "GPU kJ"}  # of the whole device


def blocks(found: Found) -> Iterator[Block]:
    names = (*SUMMED, *PEAKS, *JOULES)
    yield Data(
        "costs",
        ("method", "draw", "seed", *names),
        [
            (result.method, row.draw, row.seed, *(asdict(row.cost)[name] for name in names))
            for result in found.results
            for row in result.rows
        ],
    )
    paid = [result for result in found.results if result.cost.passes]
    if not paid:
        return
    grids = [result for result in found.results if result.rows[0].exhaustive]
    told = [name for name in JOULES if any(getattr(result.cost, name) is not None for result in paid)]
    rows = []
    for result in paid:
        cost = result.cost
        runs = sum(Cost(**one).backward_examples > 0 for one in result.rows[0].costs.values())
        peak = (cost.peak_gpu_memory_bytes or cost.peak_memory_bytes) / MIB
        faster = [
            f"{grid / own:.2f}" if own else ""
            for other in grids
            for grid, own in ((other.cost.seconds, cost.seconds), (other.cost.passes, cost.passes))
        ]
        row, whole = result.rows[0], result.rows[0].whole_cost
        passes = [str(row.choosing_passes) if row.made_by else "", "" if whole is None else str(whole.passes)]
        took = [f"{cost.forward_examples:.0f}", f"{cost.backward_examples:.0f}", f"{cost.seconds / 60:.1f}"]
        used = [getattr(cost, name) for name in told]
        energy = ["" if joules is None else f"{joules / 1000:.1f}" for joules in used]
        rows.append([result.title, str(runs), *took, *passes, f"{peak:.0f}", *energy, *faster])
    speedups = [f"speedup over {grid.method}, {unit}" for grid in grids for unit in ("time", "passes")]
    energy_units = [_ENERGY[name] for name in told]
    headers = [
        "method",
        "runs",
        "forward",
        "backward",
        "minutes",
        *_PASSES,
        "peak MiB",
        *energy_units,
        *speedups,
    ]
    title = (
        "Cost of each method's own stages, without adapters and merges that others share (training runs, "
        "example passes; one seed). Of its passes those spent on choosing; and with all that lies behind it, "
        "the sources' adapters aside:"
    )
    yield Table(title, headers, rows, "costs")
