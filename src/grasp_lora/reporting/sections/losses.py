"""Dev and test loss of every method, and its test loss compared with the reference's."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Data, Table, show_p_value, show_spread
from grasp_lora.reporting.found import LOSSES, Found


def blocks(found: Found) -> Iterator[Block]:
    rows, tested = [], False
    for result in found.results:
        losses = [show_spread(result.spread(name), 4) for name in LOSSES]
        on_loss = [c for c in found.comparisons.get(result.method, ()) if c.metric == "test_loss"]
        tested = tested or bool(on_loss)
        difference = [f"{on_loss[0].difference:+.4f}", show_p_value(on_loss[0])] if on_loss else ["", ""]
        rows.append([result.title, "" if result.p is None else f"{result.p:.3f}", *losses, *difference])
    headers = ["method", "p", "dev", "test", f"test − {found.compared.title}", "p-value"]
    width = len(headers) if tested else 4
    yield Table("Loss on target tokens (nats):", headers[:width], [row[:width] for row in rows])
    values = ("metric", "first_value", "second_value", "difference", "p_value", "signature")
    yield Data(
        "comparisons",
        ("first", "second", *values),
        [
            (found.reference, method, c.metric, c.first, c.second, c.difference, c.p_value, c.signature)
            for method, comparisons in found.comparisons.items()
            for c in comparisons
        ],
    )
