"""What thousands of rounds, large adapters, many rows and long texts take, in full size.

python -m tests.large                     all checks, and docs/results/reliability/large.json
python -m tests.large CHECK '{"KEY": N}'  one check in this process; what it found as JSON, on the last line
"""

import json
import sys
from typing import Any

from tests.helpers import reliability
from tests.helpers.reliability import Part, Table, machine, read_parts, rendered, write_part
from tests.large.checkpoints import checkpoint
from tests.large.measuring import in_own_process, timed
from tests.large.ranks import high_rank
from tests.large.rounds import many_rounds
from tests.large.rows import many_rows, read, train
from tests.large.shapes import adapter_of_8b, train_in_shape
from tests.large.texts import long_texts

CHECKS = {
    "many_rounds": many_rounds,
    "adapter_of_8b": adapter_of_8b,
    "train_in_shape": train_in_shape,
    "high_rank": high_rank,
    "long_texts": long_texts,
    "checkpoint": checkpoint,
    "many_rows": many_rows,
    "read_rows": read,
    "train_on_rows": train,
}
FULL: dict[str, dict[str, Any]] = {
    "checkpoint": {"steps": 20},
    "long_texts": {"characters": [100_000, 10_000_000], "tokenizer": "packaged:gemma-3-270m"},
    "high_rank": {"rank": 256, "hidden": 1024},
    "adapter_of_8b": {"layers": 32, "steps": 8},
    "many_rows": {"count": 1_000_000},
    "many_rounds": {"count": 2000},
}
TEXT = (
    "Each check runs in a process of its own, of one thread. Memory is what the process has in use beyond "
    "what it had before, or at its peak; rows are read from files of a million lines beside files of a "
    "thousand. The adapter of an 8B model's shapes (32 layers, hidden 4096, q_proj and v_proj, rank 16) is "
    "on a backbone whose own weights take no memory.",
)


def main() -> int:
    """Run all checks in their full size; the exit code says whether all passed."""
    results: list[dict[str, Any]] = []
    for check, sizes in FULL.items():
        with timed(results):
            results += in_own_process(check, **sizes)
        print(*map(json.dumps, results), sep="\n", flush=True)
    write_part(_part(results))
    reliability.PAGE.write_text(rendered(read_parts()), encoding="utf-8")
    return int(not all(one["passed"] for one in results))


def _part(results: list[dict[str, Any]]) -> Part:
    rows = [
        [
            one["what"],
            one["size"],
            f"{one['result']:.3g} {one['unit']}",
            f"{one['limit']:.3g} {one['unit']}",
            "yes" if one["passed"] else "**no**",
        ]
        for one in results
    ]
    return Part(
        "large",
        "Long and large",
        "python -m tests.large",
        TEXT,
        (Table("", ("what", "of what size", "measured", "limit", "within it"), rows),),
        machine("numpy"),
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(CHECKS[sys.argv[1]](**json.loads(sys.argv[2]))))
    else:
        sys.exit(main())
