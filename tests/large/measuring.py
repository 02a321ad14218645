"""What a check has measured, in a process of its own, so that no other check's memory is in it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def memory(key: str = "VmRSS") -> float:
    """MB of this process that are in memory; "VmHWM": the most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def result(what: str, size: str, value: float, unit: str, limit: float, **more: Any) -> dict[str, Any]:
    """One line of the table: it passes where the value is at most the limit."""
    passed = value <= limit
    return {"what": what, "size": size, "result": round(value, 4), "unit": unit, "limit": limit} | {
        "passed": passed,
        **more,
    }


@contextmanager
def timed(results: list[dict[str, Any]]) -> Iterator[None]:
    """Give the results that are added within their seconds, together."""
    before, start = len(results), time.perf_counter()
    yield
    for one in results[before:]:
        one["seconds"] = round(time.perf_counter() - start, 1)


def in_own_process(check: str, **sizes: Any) -> Any:
    """What a check of `CHECKS` finds in a fresh process of one thread."""
    command = [sys.executable, "-m", "tests.large", check, json.dumps(sizes)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed goes back at once: memory is what is in use
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{check} {sizes}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
