"""What masks cost without a model: trying three ratios, committing one, keeping zeros at zero.

    python -m benchmarks masks                          # 6.8 M and 27 M entries, each in a process of its own
    python -m benchmarks masks --device cuda            # and how often the GPU is waited for
    python -m benchmarks masks --against OTHER/src      # the same code of another checkout, in turns

The adapter has an 8B model's shapes: q_proj and v_proj of 32 layers, hidden size 4096, 1024 of keys and
values, a merge of two adapters of rank 8, or of 32. One thread; milliseconds (of the CPU, or on a GPU of wall
time), the median of the repeats with the least and the most. Processes take turns, so that all meet the same
load of the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from benchmarks._common import keep, positive, spread, table, wait
from torch import nn

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.units import Pruning

ROOT = Path(__file__).parents[1]
LAYERS, HIDDEN, KEYS = 32, 4096, 1024
RATIOS = (0.3, 0.45, 0.6)
STEPS = ("build", "apply 3", "restore", "all three", "commit", "enforce")


def adapter(rank: int, device: str = "cpu") -> tuple[dict[str, nn.Parameter], Pruning]:
    """The factors of a merge of two adapters of half the rank, and its parts."""
    generator = torch.Generator().manual_seed(0)
    factors, parts = {}, {}
    halves = tuple(
        SimpleNamespace(name=name, start=i * rank // 2, stop=(i + 1) * rank // 2)
        for i, name in enumerate(("en", "ar"))
    )
    for layer in range(LAYERS):
        for projection, outputs in (("q_proj", HIDDEN), ("v_proj", KEYS)):
            site = f"model.layers.{layer}.self_attn.{projection}"
            parts[site] = halves
            for factor, shape in (("A", (rank, HIDDEN)), ("B", (outputs, rank))):
                weight = torch.randn(shape, generator=generator) * 0.02
                name = f"base_model.model.{site}.lora_{factor}.default.weight"
                factors[name] = nn.Parameter(weight.to(device))
    return factors, Pruning(parts)


def measured(rank: int, repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Milliseconds of each step, once a repeat, after one that does not count; on a GPU also bytes, and how
    often it was waited for.
    """
    torch.set_num_threads(1)
    gpu = device != "cpu"
    factors, pruning = adapter(rank, device)
    optimizer = torch.optim.AdamW(factors.values(), lr=1e-4)
    for factor in factors.values():
        factor.grad = torch.randn_like(factor) * 0.01
    optimizer.step()
    before = torch.cuda.memory_allocated() if gpu else 0
    masked = MaskedAdapter(factors, pruning)
    masked.commit(0.4, optimizer)
    times: dict[str, list[float]] = defaultdict(list)
    clock = time.perf_counter if gpu else time.process_time

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        if gpu:
            wait()
        start = clock()
        yield
        if gpu:
            wait()
        times[step].append((clock() - start) * 1e3)

    for repeat in range(repeats + 1):
        optimizer.step()
        with timed("enforce"):
            masked.zero_pruned()
        with ExitStack() as stack:
            with timed("build"):
                apply = stack.enter_context(masked.probing(RATIOS))
            with timed("apply 3"):
                for i in range(len(RATIOS)):
                    apply(i)
            with timed("restore"):
                stack.close()
        times["all three"].append(sum(times[step][-1] for step in STEPS[:3]))
        with timed("commit"):
            masked.commit((0.5, 0.4)[repeat % 2], optimizer)
    found = {step: times[step][1:] for step in STEPS}
    if gpu:
        found["bytes an entry, lasting"] = [(torch.cuda.memory_allocated() - before) / _entries(factors)]
        torch.cuda.reset_peak_memory_stats()
        with masked.probing(RATIOS) as apply:
            apply(0)
        found["bytes an entry, most"] = [(torch.cuda.max_memory_allocated() - before) / _entries(factors)]
        found["waits, three ratios"] = [_waits(lambda: _try(masked))]
        found["waits, commit"] = [_waits(lambda: masked.commit(0.5, optimizer))]
        found["waits, enforce"] = [_waits(masked.zero_pruned)]
    return found


def _entries(factors: dict[str, nn.Parameter]) -> int:
    return sum(factor.numel() for factor in factors.values())


def _try(masked: MaskedAdapter) -> None:
    with masked.probing(RATIOS) as apply:
        for i in range(len(RATIOS)):
            apply(i)


def _waits(work: Callable[[], object]) -> int:
    """How often the GPU is waited for, as PyTorch says it."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
    torch.cuda.set_sync_debug_mode("default")
    return len(seen)


def apart(source: Path, rank: int, repeats: int, device: str) -> dict[str, list[float]]:
    """The same in a fresh process, with the package's code at `source`."""
    command = [sys.executable, "-m", "benchmarks", "masks", "--rank", str(rank), "--repeats", str(repeats)]
    command += ["--device", device]
    path = os.pathsep.join([str(source), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, metavar="SRC", help="the `src` of another checkout")
    parser.add_argument("--turns", type=positive, default=3, help="processes of each")
    parser.add_argument("--repeats", type=positive, default=5, help="in each process")
    parser.add_argument(
        "--rank", type=positive, help="measure this one here, and print its milliseconds as JSON"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="masks", metavar="NAME", help="of the files in benchmarks/results")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here")
    if given.against and not (given.against / "grasp_lora").is_dir():
        parser.error(f"--against {given.against}: there is no grasp_lora in it")
    if given.rank:
        print(json.dumps(measured(given.rank, given.repeats, given.device)))
        return
    sources = {"this": ROOT / "src"} | ({"other": given.against.resolve()} if given.against else {})
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for rank in (16, 64):
        of_rank = found[f"{_entries(adapter(rank)[0]) / 1e6:.1f} M entries"] = {}
        for _ in range(given.turns):
            for name, source in sources.items():
                for step, values in apart(source, rank, given.repeats, given.device).items():
                    of_rank.setdefault(name, defaultdict(list))[step] += values
    keep(given.out, "Masks, without a model", {"device": given.device, "milliseconds": found}, render)


def render(run: dict[str, Any]) -> str:
    """A run as Markdown."""
    parts = []
    for size, sources in run["milliseconds"].items():
        steps = next(iter(sources.values()))
        rows = [[step, *(spread(found[step], 1, 1) for found in sources.values())] for step in steps]
        parts.append(table([f"{size}, ms on {run['device']}", *sources], rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
