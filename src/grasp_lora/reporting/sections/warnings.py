"""What speaks against the numbers below it."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Text
from grasp_lora.reporting.found import Found
from grasp_lora.reporting.verdict import doubts, verdict_of


def blocks(found: Found) -> Iterator[Block]:
    titles = {result.method: result.title for result in found.results}
    learned = [
        f"{titles[name]}{f', draw {draw}' if len(draws) > 1 else ''}: {warning}"
        for name, draws in found.learned.items()
        for draw, one in enumerate(draws)
        for warning in one.warnings
    ]
    if lines := [*doubts(found.results, verdict_of(found)), *learned]:
        yield Text("\n".join(["Warnings:", "", *(f"- {line}" for line in lines)]))
