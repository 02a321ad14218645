"""Training and dev loss of each method's last training, and of the learning run."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from grasp_lora.reporting.blocks import Block, Figure
from grasp_lora.reporting.drawing import COLOURS
from grasp_lora.reporting.found import Found

SHOWN = 6  # methods: more lines cannot be told apart


def blocks(found: Found) -> Iterator[Block]:
    titles = {
        one.method: one.title
        for one in found.results
        if not one.rows[0].is_point and one.method in found.trained
    }
    first = [name for name in (found.reference,) if name in titles]
    names = [*first, *(name for name in titles if name not in first)][:SHOWN]
    logs = [(titles[name], found.trained[name].log) for name in names]
    if draws := found.learned.get(found.reference):
        logs.append((f"{titles.get(found.reference, found.reference)}, its learning run", draws[0].log))
    logs = [pair for pair in logs if len(pair[1]) > 1]
    if logs:
        yield Figure(
            "curves",
            lambda canvas: _draw(canvas, logs),
            "Loss while training: thin lines are training batches, dots dev rows after each epoch (epoch 0 "
            "is the start). Of each method the last training behind its adapter, with the first seed.",
        )


def _draw(canvas: Any, logs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    axes = canvas.subplots()
    for colour, (title, log) in zip(cycle(COLOURS), logs, strict=False):
        train, dev = ([(e["step"], e[key]) for e in log if key in e] for key in ("loss", "dev_loss"))
        if train:
            axes.plot(
                *zip(*train, strict=True),
                color=colour,
                linewidth=0.9,
                alpha=0.7,
                label=None if dev else title,
            )
        if dev:
            axes.plot(
                *zip(*dev, strict=True), color=colour, linewidth=1.8, marker="o", markersize=4, label=title
            )
    axes.set(xlabel="optimizer step", ylabel="loss (nats per target token)")
    canvas.legend(loc="outside lower center", ncols=3)
