"""What starts before any work does: the command's help, the import, what a short run takes beside its passes.

python -m benchmarks startup
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import keep, positive, spread, table

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import grasp_lora": ["-c", "import grasp_lora"],
    "import grasp_lora, GraspCallback": ["-c", "from grasp_lora import GraspCallback"],
    "grasp --help": ["-m", "grasp_lora.cli.main", "--help"],
}


def timed(arguments: Sequence[str], repeats: int) -> list[float]:
    """Seconds of a process, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return times[1:]


def demo(settings: Sequence[str]) -> dict[str, float]:
    """Seconds of `grasp demo`, and of its stages but the report: passes, and what stands around them."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "grasp_lora.cli.main", "demo", "ar", f"runs={folder}/runs", *settings],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, env=os.environ,
        )  # fmt: skip
        whole = time.perf_counter() - start
        done = {path: json.loads(path.read_text()) for path in Path(folder).rglob("done.json")}
        stages = {path.parent.name: one.get("seconds", 0.0) for path, one in done.items()}
        report = stages.get("report", 0.0)
        return {"whole": whole, "stages": sum(one.get("seconds", 0.0) for one in done.values()) - report}


def render(run: dict[str, Any]) -> str:
    """A run as Markdown."""
    rows = [[name, spread(values, 1, 2)] for name, values in run["seconds"].items()]
    text = table(["", "s"], rows)
    if one := run.get("demo"):
        beside = one["whole"] - one["stages"]
        share = beside / one["whole"]
        text += (
            f"\n\n`grasp demo`: {one['whole']:.0f} s, of which {beside:.1f} s ({share:.1%}) are not in its "
            "stages (imports, plan, report)."
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=positive, default=7)
    parser.add_argument("--demo", action="store_true", help="run grasp demo, too: ten minutes")
    parser.add_argument("--out", default="startup", metavar="NAME", help="of the files in benchmarks/results")
    given, settings = parser.parse_known_args()
    run: dict[str, Any] = {"seconds": {name: timed(of, given.repeats) for name, of in COMMANDS.items()}}
    if given.demo:
        run["demo"] = demo(settings)
    keep(given.out, "Start-up", run, render)


if __name__ == "__main__":
    main()
