"""What masks cost on a CPU, without a model: trying three ratios, committing one, keeping zeros at zero.

    python -m benchmarks masks                          # 6.8 M and 27 M entries, each in a process of its own
    python -m benchmarks masks --against OTHER/src      # the same code of another checkout, in turns

The adapter has an 8B model's shapes: q_proj and v_proj of 32 layers, hidden size 4096, 1024 of keys and
values, a merge of two adapters of rank 8, or of 32. One thread; milliseconds, the median of the repeats with
the least and the most. Processes take turns, so that all meet the same load of the machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.units import Pruning
from grasp_lora.workspace.environment import environment

ROOT = Path(__file__).parents[1]
LAYERS, HIDDEN, KEYS = 32, 4096, 1024
RATIOS = (0.3, 0.45, 0.6)
STEPS = ("build", "apply 3", "restore", "all three", "commit", "enforce")


def adapter(rank: int) -> tuple[dict[str, nn.Parameter], Pruning]:
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
                factors[f"base_model.model.{site}.lora_{factor}.default.weight"] = nn.Parameter(weight)
    return factors, Pruning(parts)


def measured(rank: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each step, once a repeat, after one that does not count."""
    torch.set_num_threads(1)
    factors, pruning = adapter(rank)
    optimizer = torch.optim.AdamW(factors.values(), lr=1e-4)
    for factor in factors.values():
        factor.grad = torch.randn(factor.shape) * 0.01
    optimizer.step()
    masked = MaskedAdapter(factors, pruning)
    masked.commit(0.4, optimizer)
    times: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        start = time.process_time()
        yield
        times[step].append((time.process_time() - start) * 1e3)

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
    return {step: times[step][1:] for step in STEPS}


def apart(source: Path, rank: int, repeats: int) -> dict[str, list[float]]:
    """The same in a fresh process, with the package's code at `source`."""
    command = [sys.executable, "-m", "benchmarks", "masks", "--rank", str(rank), "--repeats", str(repeats)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
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
    parser.add_argument("--turns", type=int, default=3, help="processes of each")
    parser.add_argument("--repeats", type=int, default=5, help="in each process")
    parser.add_argument("--rank", type=int, help="measure this one here, and print its milliseconds as JSON")
    given = parser.parse_args()
    if given.rank:
        print(json.dumps(measured(given.rank, given.repeats)))
        return
    print(json.dumps(environment()))
    sources = {"this": ROOT / "src"} | ({"other": given.against.resolve()} if given.against else {})
    for rank in (16, 64):
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for _ in range(given.turns):
            for name, source in sources.items():
                for step, found in apart(source, rank, given.repeats).items():
                    times[name, step] += found
        entries = sum(w.numel() for w in adapter(rank)[0].values())
        print(f"\nrank {rank}: {entries / 1e6:.1f} M entries, {given.turns * given.repeats} times each")
        for (name, step), each in times.items():
            print(
                f"{name:6} {step:10} {statistics.median(each):8.1f} ms   {min(each):.1f} to {max(each):.1f}"
            )


if __name__ == "__main__":
    main()
