"""Wall time, peak memory, example passes and optimizer steps of a piece of work."""

import gc
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grasp_lora.energy import Meter

__all__ = [
    "JOULES",
    "PEAKS",
    "SUMMED",
    "Cost",
    "count_passes",
    "go_on_from",
    "measure",
    "passes_in",
    "so_far",
    "span",
]

FOREVER = 1e10  # seconds: three centuries


@dataclass(slots=True)
class Cost:
    """What a block took: seconds of wall time and peak bytes, set when `measure` ends, and example passes.

    Passes count examples, so that methods can be compared across machines: a training step on one example
    is one forward and one backward pass, a loss on 16 examples 16 forward passes. Generation is not counted.
    `steps` are the optimizer's. Energy is what processor and GPU say of themselves, see `energy`; None where
    they do not.
    """

    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_gpu_memory_bytes: int = 0
    forward_examples: int = 0
    backward_examples: int = 0
    steps: int = 0
    cpu_joules: float | None = None
    gpu_joules: float | None = None

    @property
    def passes(self) -> int:
        """Forward and backward passes counted alike: with a frozen backbone they cost about as much."""
        return self.forward_examples + self.backward_examples

    @classmethod
    def together(cls, costs: Sequence["Cost"]) -> "Cost":
        """Of pieces of work one after the other: seconds and passes add up, memory peaks do not.

        Energy that is not known of one piece is not known of all.
        """
        energy: dict[str, Any] = {}
        for name in JOULES:
            known = [getattr(cost, name) for cost in costs]
            energy[name] = sum(known) if known and None not in known else None
        summed = {name: sum(getattr(cost, name) for cost in costs) for name in SUMMED}
        peaks = {name: max((getattr(cost, name) for cost in costs), default=0) for name in PEAKS}
        return cls(**summed, **peaks, **energy)


SUMMED = ("seconds", "forward_examples", "backward_examples", "steps")  # add up over pieces of work
JOULES = ("cpu_joules", "gpu_joules")
PEAKS = ("peak_memory_bytes", "peak_gpu_memory_bytes")  # do not


@dataclass(slots=True)
class _Block:
    """A `measure` that is open."""

    cost: Cost
    start: float = field(default_factory=time.perf_counter)
    meter: Meter = field(default_factory=Meter)
    before: Cost | None = None
    """What `go_on_from` brought: energy that was used by then."""

    def see(self, used: Mapping[str, float]) -> None:
        """Note seconds, peaks and energy up to now."""
        _see_peaks(self.cost)
        self.cost.seconds = time.perf_counter() - self.start
        for name, device in zip(JOULES, ("cpu", "gpu"), strict=True):
            earlier = 0.0 if self.before is None else getattr(self.before, name)
            now = used.get(device)
            setattr(self.cost, name, None if now is None or earlier is None else earlier + now)


_open: list[_Block] = []


def count_passes(forward: int = 0, backward: int = 0, steps: int = 0) -> None:
    """Add example passes, and optimizer steps, to every `measure` block that is open."""
    for block in _open:
        block.cost.forward_examples += forward
        block.cost.backward_examples += backward
        block.cost.steps += steps


def so_far() -> Cost | None:
    """What the innermost `measure` block that is open took up to now; None where none is."""
    if not _open:
        return None
    block = _open[-1]
    block.see(block.meter.read())
    return replace(block.cost)


def go_on_from(spent: Cost) -> None:
    """The innermost block counts on from what `so_far` said in a process that was ended.

    What this process did in it until now, such as loading a model, is done again and does not count.
    """
    if _open:
        block = _open[-1]
        block.start = time.perf_counter() - spent.seconds
        block.meter.stop()
        block.cost, block.before, block.meter = _into(block.cost, spent), spent, Meter()


def passes_in(cost: Cost) -> tuple[int, int]:
    """Example passes up to now in the block that gave `cost`, and how many of them `go_on_from` brought."""
    before = next((block.before for block in _open if block.cost is cost), None)
    return cost.passes, 0 if before is None else before.passes


def _into(cost: Cost, spent: Cost) -> Cost:
    """The same object, which who measures has in hand."""
    for name in SUMMED:
        setattr(cost, name, getattr(spent, name))
    for name in PEAKS:
        setattr(cost, name, max(getattr(cost, name), getattr(spent, name)))
    return cost


@contextmanager
def measure() -> Iterator[Cost]:
    """Measure the block: wall seconds, the process's peak resident memory, the GPU allocator's peak.

    On Linux the kernel's high-water mark is reset first, so the peak is the block's own; elsewhere it is
    the process's since its start. A block inside another one counts for both. What an earlier block left in
    reference cycles, as a Trainer leaves its model, is freed first.
    """
    gc.collect()
    for outer in _open:
        _see_peaks(outer.cost)  # what it reached so far: the marks are reset now
    _reset_peaks()
    block = _Block(Cost())
    _open.append(block)
    try:
        yield block.cost
    finally:
        _open.pop()
        for outer in _open:
            _see_peaks(outer.cost)
        block.see(block.meter.stop())


def span(seconds: float) -> str:
    """A length of time, as roughly as one wants to know it; "?" where it cannot be one."""
    if not abs(seconds) < FOREVER:  # of a damaged file; NaN, too
        return "?"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _see_peaks(cost: Cost) -> None:
    cost.peak_memory_bytes = max(cost.peak_memory_bytes, _peak_resident())
    cost.peak_gpu_memory_bytes = max(cost.peak_gpu_memory_bytes, _peak_gpu())


def _reset_peaks() -> None:
    with suppress(OSError):  # not Linux, or not allowed: the peak is then the process's
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_resident() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_gpu() -> int:
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch is not None and torch.cuda.is_available() else 0
