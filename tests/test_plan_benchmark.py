"""The simulation of a plan, by hand-worked numbers."""

import importlib.util
import sys
from pathlib import Path

import pytest

from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work

FILE = Path(__file__).parents[1] / "benchmarks/plan.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("plan_benchmark", FILE)
    module = sys.modules["plan_benchmark"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def work(resources, folder, **given):
    """Nothing: it is only planned."""


@pytest.fixture
def plans(tmp_path):
    """A long one (6), two that follow it (1, 2), and three alone (3 each)."""
    first = Stage("first", Work(work), {})
    then = [Stage(f"then{i}", Work(work), {"first": first}) for i in range(2)]
    alone = [Stage(f"alone{i}", Work(work), {}) for i in range(3)]
    return [(RunDirectory(tmp_path, Resources()), [first, *then, *alone])]


SECONDS = [6.0, 1.0, 2.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("gpus", "makespan", "limit"),
    [
        (1, 18.0, "the work: more GPUs help"),
        (2, 10.0, "both, and the order"),  # 6, then 1 and 2; beside them 3, 3, then 3 from 6 or 7 on
        (4, 8.0, "the longest chain, most of all first, then1"),
    ],
)
def test_stages_begin_in_order_where_a_gpu_is_free(benchmark, plans, gpus, makespan, limit):
    found = benchmark.simulate(plans, SECONDS, gpus)
    assert found.makespan == makespan
    assert found.chain == 8.0
    assert found.utilisation == pytest.approx(18 / (gpus * makespan))
    assert found.limit == limit


def test_both_papers_are_planned_quickly(benchmark, tmp_path):
    """With a margin for machines that do other things; docs/results/plan.md has what it takes alone."""
    resources = Resources()
    given = [x for x in benchmark.starts(tmp_path) if "figure6" in x.config.name or "grasp" in x.config.name]
    benchmark.preview(benchmark.plans_of(given, resources))
    began = benchmark.time.perf_counter()
    planned = benchmark.preview(benchmark.plans_of(given, resources))
    assert len(planned) > 300
    assert benchmark.time.perf_counter() - began < 10 * len(planned) / 1000
    seconds = benchmark.seconds_of(planned, benchmark.read_pace(benchmark.TIMES))
    assert sum(map(bool, seconds)) > len(planned) / 2
