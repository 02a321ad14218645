"""What thousands of rounds, large adapters, many rows and long texts take, in full size.

python -m tests.large                     all checks, and docs/results/reliability/large.json
python -m tests.large CHECK '{"KEY": N}'  one check in this process; what it found as JSON, on the last line
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.large.measuring import ROOT, in_own_process, timed
from tests.large.ranks import high_rank
from tests.large.rounds import many_rounds
from tests.large.rows import many_rows, read, train
from tests.large.shapes import adapter_of_8b, train_in_shape
from tests.large.texts import long_texts

from grasp_lora.workspace.environment import environment

CHECKS = {
    "many_rounds": many_rounds,
    "adapter_of_8b": adapter_of_8b,
    "train_in_shape": train_in_shape,
    "high_rank": high_rank,
    "long_texts": long_texts,
    "many_rows": many_rows,
    "read_rows": read,
    "train_on_rows": train,
}
FULL: dict[str, dict[str, Any]] = {
    "long_texts": {"characters": [100_000, 10_000_000], "tokenizer": "packaged:gemma-3-270m"},
    "high_rank": {"rank": 256, "hidden": 1024},
    "adapter_of_8b": {"layers": 32, "steps": 8},
    "many_rows": {"count": 1_000_000},
    "many_rounds": {"count": 2000},
}
OUT = ROOT / "docs/results/reliability/large.json"


def main() -> int:
    """Run all checks in their full size; the exit code says whether all passed."""
    results: list[dict[str, Any]] = []
    for check, sizes in FULL.items():
        with timed(results):
            results += in_own_process(check, **sizes)
        print(*map(json.dumps, results[-1:]), sep="\n", flush=True)
        _write(OUT, results)
    return int(not all(one["passed"] for one in results))


def _write(path: Path, results: list[dict[str, Any]]) -> None:
    made = {"command": "python -m tests.large", "environment": environment(), "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(CHECKS[sys.argv[1]](**json.loads(sys.argv[2]))))
    else:
        sys.exit(main())
