"""Evaluated methods of made-up runs, in files as a run leaves them."""

import random
from dataclasses import replace

import yaml

from grasp_lora.workspace.rows import Answer, Row

METHODS = {"lora_target": (None, 100), "merge": (0.0, 200), "grasp": (0.4, 600)}


def made_up_run(folder, *, methods=METHODS, rows=40, seed=0, asked=(), answer="a short title", **about):
    """`eval/METHOD/seed42/` of some methods with random losses, and the run's config."""
    drawn = random.Random(seed)
    base = [drawn.uniform(1, 4) for _ in range(rows)]
    for name, (p, passes) in methods.items():
        losses = {key: [loss + drawn.gauss(0, 0.1) for loss in base] for key in ("dev", "test")}
        costs = {f"{name}/seed42": {"seconds": 60.0, "forward_examples": passes, "backward_examples": 0}}
        answers = [Answer(f"id{i}", "hash", f"{answer} {i}", (f"a title {i}",), f"ask {i}") for i in range(6)]
        row = Row(
            method=name,
            seed=42,
            title=name.upper(),
            task="titles",
            source="en",
            target="ar",
            adapter=f"{name}/seed42",
            p=p,
            dev_loss=sum(losses["dev"]) / rows,
            dev_losses=losses["dev"],
            test_losses=losses["test"],
            scores={},
            answers=answers,
            costs=costs,
            all_costs=costs,
            made_by=list(costs),
            steps=50,
            labels={"train": 50, "dev": rows},
            source_losses={"en": 2.0 + drawn.random()},
        )
        place = folder / "eval" / name / "seed42"
        place.mkdir(parents=True)
        replace(row, **about).write(place)
    config = {"methods": [*methods, *asked], "seeds": [42]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder
