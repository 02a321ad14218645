"""What a fixed mask's losses say before its training ends: the rows that rules of `halving` are compared on.

    python -m benchmarks rungs configs/matrix/ar.yaml [OVERRIDES] --draws 2 --out docs/results/halving

Trains the merge of each draw under a fixed mask at each ratio of `--ratios`, the same rows in the same order,
and writes the loss of every micro-dev and dev row after so many steps, one JSON line a ratio, to
OUT/NAME-DRAW.jsonl. What is in the file already is not trained again.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.experiment import make, start
from grasp_lora.methods.samples import moved
from grasp_lora.methods.start import Start
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.fit import fit
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, behind

STEPS = (6, 12, 25)
RATIOS = tuple(n / 10 for n in range(9))


class _Looks(TrainerCallback):
    """Notes every row's loss after some steps, and after the last."""

    def __init__(self, losses: dict[str, Any]) -> None:
        self.losses, self.seen = losses, dict[int, dict[str, list[float]]]()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if state.global_step in (*STEPS, state.max_steps):
            rows = {name: loss.per_example(model) for name, loss in self.losses.items()}
            self.seen[state.global_step] = {name: one.tolist() for name, one in rows.items()}


def looked_at(
    x: Start, ratios: tuple[float, ...], known: set[float], folder: Path
) -> Iterator[dict[str, Any]]:
    """One line a ratio that is not known: the losses by step, split and row."""
    config, seed = x.config, x.config.seed
    merged = moved(x.merged, x.drawn) if x.draw else x.merged
    assert isinstance(merged, Stage)
    run = RunDirectory(config.folder, Resources())
    make(x, behind(merged))
    where, resources = run.path(merged.name), run.resources
    train = resources.examples(x.rows(config.target, "train"))
    splits = {"micro_dev": x.micro_dev(config.control.micro_dev), "dev": x.rows(config.target, "dev")}
    for p in ratios:
        if p in known:
            continue
        kept: list[_Looks] = []

        def callbacks(trainer: Any, backbone: Any, p: float = p, kept: list[_Looks] = kept) -> list[Any]:
            kept.append(
                _Looks(
                    {n: resources.loss(resources.examples(r), backbone, x.limits) for n, r in splits.items()}
                )
            )
            return [FixedMaskCallback(p, parts=where, unit=config.control.unit), *kept]

        training = config.final.training
        fit(resources, folder / f"p{p:.2f}", x.model, where, train, training, x.limits, seed, callbacks)
        yield {"p": p, "steps": kept[0].seen}


def main() -> None:
    """Write what is not written yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    whole = start(given.config, given.overrides)
    for draw in given.draws:
        name = whole.config.name.removeprefix("matrix-")
        out = given.out / f"{name}-{draw}.jsonl"
        lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
        known = {json.loads(line)["p"] for line in lines}
        folder = given.scratch / f"{whole.config.name}-{draw}"
        for line in looked_at(replace(whole, draw=draw), tuple(given.ratios), known, folder):
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
