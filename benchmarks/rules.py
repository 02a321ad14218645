"""Which rule of `halving` finds what the finished grid finds, at which cost?

    python -m benchmarks rules                       # the rows in docs/results/halving, written by `rungs`
    python -m benchmarks rules --rows FOLDER

Every rule is replayed on the recorded losses: who is compared after how many steps, on how many rows, and who
goes on. Passes are those of real training, as `cost` counts them: two for a training example, one for a row
that judges, and the survivor's two looks at dev; the grid's are nine whole trainings. *Close*: the ratio's
finished dev loss is within noise of the grid's best (1.96 paired errors); *regret*: by how much it is above.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grasp_lora.control.halving import Halving, KeepRule
from grasp_lora.control.noise import Z, paired_error
from grasp_lora.reporting.write import markdown

ROWS = Path(__file__).parents[1] / "docs/results/halving"
Recorded = Mapping[float, Mapping[str, Mapping[str, Sequence[float]]]]
"""Ratio -> step -> split -> the loss of each row."""


@dataclass(frozen=True)
class Rule:
    """Steps of the comparisons, rows that judge at each (micro-dev's, then dev's), and who goes on."""

    rungs: tuple[int, ...]
    rows: tuple[int, ...]
    factor: int = 3
    keep: KeepRule = "rank"
    budget: int | None = None

    @property
    def title(self) -> str:
        """In words."""
        seen = ", ".join(f"{step} on {rows}" for step, rows in zip(self.rungs, self.rows, strict=True))
        budget = "" if self.budget is None else f", at most {self.budget} steps"
        return f"{seen}; 1 of {self.factor}" + (
            "" if self.keep == "rank" else f" and who is within noise{budget}"
        )


RULES = (
    Rule((6,), (16,), 9),
    Rule((12,), (16,), 9),
    Rule((6, 12), (8, 16)),
    Rule((6, 12), (16, 16)),
    Rule((6, 12), (16, 40)),
    Rule((6, 12, 25), (16, 16, 16), 2),
    Rule((6, 12, 25), (40, 40, 40), 2),
    Rule((25,), (40,), 9),
    Rule((6, 12), (16, 16), 3, "noise", 100),
    Rule((6, 12, 25), (16, 16, 16), 2, "noise", 300),
)


def recorded(folder: Path) -> Iterator[tuple[str, Recorded]]:
    """Task and draw, and their rows; those that have all ratios."""
    for path in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = {line["p"]: line["steps"] for line in lines}
        if len(found) == 9:
            yield path.stem, found


def replay(rule: Rule, seen: Recorded) -> tuple[float, int]:
    """The survivor, and the example passes until its adapter is there."""
    last = max(map(int, seen[0.0]))
    dev = len(seen[0.0][str(last)]["dev"])
    halving = Halving(sorted(seen), rule.rungs, factor=rule.factor, keep=rule.keep, budget=rule.budget)
    passes, reached = 0, dict.fromkeys(seen, 0)
    while (step := halving.next_step) is not None:
        rows = rule.rows[len(halving.rungs)]
        losses = {}
        for p in halving.alive:
            at: Any = seen[p][str(step)]
            losses[p] = [*at["micro_dev"], *at["dev"]][:rows]
            passes += 2 * (step - reached[p]) + rows
            reached[p] = step
        halving.tell(losses)
    survivor = halving.alive[0]
    assert isinstance(survivor, float)
    return survivor, passes + 2 * (last - reached[survivor]) + 2 * dev


def finished(seen: Recorded) -> dict[float, float]:
    """The dev loss of each whole training."""
    last = str(max(map(int, seen[0.0])))
    return {p: statistics.fmean(steps[last]["dev"]) for p, steps in seen.items()}


def _all_found(all_seen: Mapping[str, Recorded]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """What chose, and for each task and draw its ratio, and its share of the grid's passes."""
    yield "0, and nothing compared", [(0.0, 1 / len(seen)) for seen in all_seen.values()]
    for rule in RULES:
        found = []
        for seen in all_seen.values():
            last = str(max(map(int, seen[0.0])))
            p, passes = replay(rule, seen)
            found.append((p, passes / (len(seen) * 2 * (int(last) + len(seen[p][last]["dev"])))))
        yield rule.title, found


def main() -> None:
    """The table, and the choices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS)
    all_seen = dict(recorded(parser.parse_args().rows))
    lines, choices = [], []
    for title, found in _all_found(all_seen):
        regrets, close, same = [], 0, 0
        for seen, (p, _) in zip(all_seen.values(), found, strict=True):
            last, losses = str(max(map(int, seen[0.0]))), finished(seen)
            best = min(losses, key=losses.__getitem__)
            error = paired_error(seen[p][last]["dev"], seen[best][last]["dev"]) or 0.0
            regrets.append(losses[p] - losses[best])
            close += regrets[-1] <= Z * error
            same += p == best
        count, mean = len(all_seen), statistics.fmean(regrets)
        shares = statistics.fmean(share for _, share in found)
        lines.append(
            [title, f"{shares:.3f}", f"{same} of {count}", f"{close} of {count}", f"{mean:+.4f}",
             f"{max(regrets):+.4f}"]
        )  # fmt: skip
        choices.append([title, *(f"{p:.1f}" for p, _ in found)])
    best_of = [f"{min(losses, key=losses.__getitem__):.1f}" for losses in map(finished, all_seen.values())]
    print(
        markdown(["steps on rows; who goes on", "passes / grid", "same", "close", "regret", "worst"], lines)
    )
    print()
    print(markdown(["", *all_seen], [["the finished grid", *best_of], *choices]))


if __name__ == "__main__":
    main()
