"""Cost of a piece of work: what is counted belongs to every block that is open."""

import mmap
import time

from grasp_lora.cost import Cost, count_passes, measure

MIB = 2**20


def take_and_give_back(size: int) -> None:
    """Use memory that goes back to the system at once, as an allocator's own need not."""
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1


def test_passes_count_for_every_open_block() -> None:
    count_passes(forward=99)  # nobody measures
    with measure() as outer:
        count_passes(forward=2, backward=1, steps=1)
        with measure() as inner:
            count_passes(forward=3)
    assert (inner.forward_examples, inner.backward_examples) == (3, 0)
    assert (outer.forward_examples, outer.backward_examples) == (5, 1)
    assert (outer.steps, inner.steps) == (1, 0)
    assert Cost.together([outer, outer]).steps == 2


def test_an_inner_block_does_not_hide_the_outer_peak() -> None:
    with measure() as outer:
        take_and_give_back(160 * MIB)
        with measure() as inner:
            time.sleep(0.01)
    assert outer.peak_memory_bytes > inner.peak_memory_bytes + 100 * MIB
    with measure() as outer, measure() as inner:
        take_and_give_back(160 * MIB)
    assert outer.peak_memory_bytes >= inner.peak_memory_bytes > 160 * MIB


def test_seconds() -> None:
    with measure() as cost:
        time.sleep(0.05)
    assert 0.05 <= cost.seconds < 5
