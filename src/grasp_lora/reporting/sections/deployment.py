"""What the methods' models take, the adapter beside the backbone and merged into it."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Table
from grasp_lora.reporting.found import Found

MIB = 2**20


def blocks(found: Found) -> Iterator[Block]:
    rows = []
    for title, one in found.deployed.items():
        size = one.adapter
        on_disk = ["", ""] if size is None else [f"{size.file_bytes / MIB:.2f}", f"{size.nonzero_share:.0%}"]
        for form, suffix in ((one.unmerged, ""), (one.merged, " (in the base)")):
            if form is None:
                continue
            rate = form.tokens_per_second
            rows.append(
                [
                    f"{title}{suffix}",
                    *on_disk,
                    f"{form.adapter_load_seconds + form.merge_seconds:.2f}",
                    f"{form.first_token_seconds * 1000:.0f}",
                    "" if rate is None else f"{rate:.1f}",
                    f"{form.peak_bytes / MIB:.0f}",
                ]
            )
    if rows:
        headers = ["method", "MiB on disk", "not zero", "load s", "first token ms", "tokens/s", "peak MiB"]
        yield Table("Deployment, one example at a time:", headers, rows, "deployment")
