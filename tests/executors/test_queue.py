"""What is begun next: only what can be, in the plan's order, and everything once."""

import time

from hypothesis import given
from hypothesis import strategies as st

from grasp_lora.executors.queue import Queue


@st.composite
def plans(draw):
    """Of each stage the earlier ones that it needs."""
    count = draw(st.integers(1, 12))
    return [draw(st.lists(st.integers(0, i - 1), max_size=3)) if i else [] for i in range(count)]


@given(plans(), st.randoms(use_true_random=False))
def test_everything_is_begun_once_and_after_what_it_needs(needs, random):
    queue, made, running = Queue(needs), set(), set()
    while len(made) < len(needs):
        while (number := queue.take(lambda _: True)) is not None:
            earlier = [n for n in range(number) if n not in made | running and set(needs[n]) <= made]
            assert not earlier
            assert set(needs[number]) <= made
            assert number not in made | running
            running.add(number)
        done = random.choice(sorted(running))
        running.remove(done)
        made.add(done)
        queue.made(done)
    assert queue.take(lambda _: True) is None


def test_what_has_no_room_keeps_its_place():
    queue = Queue([[], [], []])
    assert queue.take(lambda number: number == 1) == 1
    assert queue.take(lambda number: False) is None
    assert [queue.take(lambda _: True) for _ in range(3)] == [0, 2, None]


def test_large_plans_take_no_time():
    count = 100_000
    began, queue = (
        time.perf_counter(),
        Queue([[number - 1] if number % 10 else [] for number in range(count)]),
    )
    taken = 0
    while (number := queue.take(lambda _: True)) is not None:
        queue.made(number)
        taken += 1
    assert taken == count
    assert time.perf_counter() - began < count / 1000  # far from it, on any machine
