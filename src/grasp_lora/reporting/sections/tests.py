"""Further test sets of the task, such as a dialect's: the same adapters on other rows."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Table, show_spread, show_stars
from grasp_lora.reporting.found import Found, adjusted, compare_with


def blocks(found: Found) -> Iterator[Block]:
    for name, results in found.tests.items():
        reference = next((one for one in results if one.method == found.reference), results[0])
        compared, metrics = compare_with(reference, results), ("test_loss", *reference.metrics)
        rows, holm = [], {metric: adjusted(compared, metric) for metric in metrics}
        for result in results:
            against = compared.get(result.method, ())
            stars = {c.metric: show_stars(c.p_value, holm[c.metric][result.method]) for c in against}
            shown = [
                show_spread(result.spread(m), 4 if m == "test_loss" else 2) + stars.get(m, "")
                if result.has(m)
                else ""
                for m in metrics
            ]
            rows.append([result.title, *shown])
        count = len(reference.rows[0].test_losses)
        mark = f"* differs from {reference.title} with p < 0.05, ** by Holm too"
        yield Table(f"On {count} rows of {name} ({mark}):", ["method", *metrics], rows, f"test_{name}")
