"""Answers to the first test examples, all methods' beside the reference."""

from collections.abc import Iterator

from grasp_lora.reporting.blocks import Block, Text
from grasp_lora.reporting.found import Found

SHOWN = 4  # all are in predictions.jsonl


def blocks(found: Found) -> Iterator[Block]:
    shown: list[dict[str, str]] = []
    for result in found.results:
        for i, answer in enumerate(result.rows[0].answers[:SHOWN]):
            if i == len(shown):
                shown.append({"reference": answer.references[0]})
            shown[i][result.title] = " ".join(answer.prediction.split())
    if shown:
        lists = ["\n".join(f"- {name}: {text}" for name, text in one.items()) for one in shown]
        yield Text("\n\n".join(["Greedy answers to the first test examples:", *lists]))
