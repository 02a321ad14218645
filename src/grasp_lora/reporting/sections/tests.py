"""Further test sets of the task, such as a dialect's: the same adapters on other rows."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Table, show_spread
from grasp_lora.reporting.found import Found, compare_with
from grasp_lora.reporting.sections.metrics import SIGNIFICANT


def blocks(found: Found) -> Iterator[Block]:
    for name, results in found.tests.items():
        reference = next(result for result in results if result.method == found.reference)
        compared, metrics = compare_with(reference, results), ("test_loss", *reference.metrics)
        rows = []
        for result in results:
            stars = {c.metric for c in compared.get(result.method, ()) if c.p_value < SIGNIFICANT}
            shown = [
                show_spread(result.spread(m), 4 if m == "test_loss" else 2) + ("*" if m in stars else "")
                for m in metrics
            ]
            rows.append([result.title, *shown])
        count = len(reference.rows[0].test_losses)
        mark = f"* differs from {reference.title} with p < 0.05"
        yield Table(f"On {count} rows of {name} ({mark}):", ["method", *metrics], rows)
