"""Wall time to a ratio and its adapter, for every way to choose one, beside what the grid takes.

    python -m benchmarks choosing             # SmolLM2 135M, the demo's titles, the paper's ten epochs

Every way begins with the same two adapters and their merge, which are not counted, and ends with the adapter
at the ratio that it found: for the grids, the best of eight. Ways take turns, on one thread. Times are those
of the stages that are a method's own, their looks at dev included.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._common import keep, positive, spread, table

import grasp_lora
from grasp_lora.workspace.rows import Row

GRIDS = ("grid", "merge_prune")
WAYS = (*GRIDS, "grasp", "halving", "prune_after")


def settings(given: argparse.Namespace, runs: Path) -> dict[str, Any]:
    """Of every run: so short that the grids end."""
    side = {"train_examples": given.rows, "dev_examples": given.dev}
    return {
        "backbone": given.backbone,
        "runs": runs,
        "source": {"language": "en", **side},
        "target": {"language": "zh", **side},
        "training.epochs": 1,
        "final": {"training": {"epochs": given.epochs}},
        "control.micro_dev": given.micro_dev,
        "learn": {"training": {"max_steps": given.learn}},
        "evaluation": {"test_examples": 1, "generate": 0},
        "max_length": given.tokens,
        "executor": {"threads": 1},
    }


def measured(given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Of each way and turn: seconds, example passes, p."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in given.ways}
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(grasp_lora.__file__).parent / "configs/demo.yaml"
        common = settings(given, Path(folder) / "runs")
        first = grasp_lora.run(demo, name="adapters", methods=["merge_untrained"], **common)
        for side, language in (("source", "en"), ("target", "zh")):
            common[side] |= {"adapter": first.folder / "adapters" / language}
        for turn in range(given.turns):
            start = turn % len(given.ways)
            for way in (*given.ways[start:], *given.ways[:start]):
                made = grasp_lora.run(demo, name=f"{way}-{turn}", methods=[way], **common)
                row = Row.read(made.folder / f"eval/{way}/seed42")
                one = {"seconds": row.cost.seconds, "passes": row.cost.passes, "p": row.p}
                found[way].append(one)
                print(way, one, flush=True)
    return found


def render(run: dict[str, Any]) -> str:
    """A run as Markdown."""
    found = {way: made for way, made in run["ways"].items() if made}
    seconds = {way: [one["seconds"] for one in made] for way, made in found.items()}
    rows = []
    for way, made in found.items():
        row: list[object] = [way, spread(seconds[way], 1, 1), made[0]["passes"]]
        for grid in GRIDS:
            times = zip(seconds.get(grid, []), seconds[way], strict=False)
            ratios = [of_grid / own for of_grid, own in times]
            row.append(f"{statistics.median(ratios):.1f}" if ratios else "")
        rows.append(row)
    said = ", ".join(f"{key} {value}" for key, value in run["how"].items())
    head = ["", "s", "example passes", "grid over it", "merge_prune's grid over it"]
    return f"{said}\n\n{table(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="packaged:smollm2-135m")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rows", type=positive, default=8, help="of each language's training")
    parser.add_argument("--dev", type=positive, default=8)
    parser.add_argument("--micro-dev", type=positive, default=16)
    parser.add_argument("--epochs", type=positive, default=10, help="of a training at a ratio, at most")
    parser.add_argument("--learn", type=positive, default=40, help="steps of the learning run")
    parser.add_argument("--tokens", type=positive, default=64, help="of a row at most")
    parser.add_argument("--turns", type=positive, default=1)
    parser.add_argument(
        "--out", default="choosing", metavar="NAME", help="of the files in benchmarks/results"
    )
    given = parser.parse_args()
    how = {key: value for key, value in vars(given).items() if key not in ("out", "ways")}
    keep(given.out, "Ways to choose a ratio", {"how": how, "ways": measured(given)}, render)


if __name__ == "__main__":
    main()
