"""What other settings of the controller do to p* and to the scores (GRASP Tables 3 and 4)."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Table, show_spread
from grasp_lora.reporting.found import Found


def blocks(found: Found) -> Iterator[Block]:
    by_name = {one.method: one for one in found.results}
    names = [name for name in found.variants if name in by_name and name != found.reference]
    if not names:
        return
    settings = list(dict.fromkeys(key for name in names for key in found.variants[name]))
    rows = []
    for name in (found.reference, *names):
        one, own = by_name[name], found.variants.get(name, {})
        ratio = "" if one.p is None else f"{one.p:.3f}"
        values = [show_spread(one.spread("test_loss"), 4)]
        values += [show_spread(one.spread(metric), 2) if one.has(metric) else "" for metric in found.metrics]
        rows.append([one.title, *(str(own.get(key, "")) for key in settings), ratio, *values])
    title = (
        f"Settings that differ from {found.compared.title}'s, the ratio they led to, and test (loss in nats):"
    )
    yield Table(title, ["variant", *settings, "p*", "test loss", *found.metrics], rows, "ablations")
