"""How long all experiments of both papers would take on so many GPUs, and how long it takes to plan them.

    python -m benchmarks plan                    # 1, 8 and 64 GPUs, and the plan 100 times over
    python -m benchmarks plan --times RUN...     # measure anew: what stages took in these runs

The plans are the real ones, of every file in configs/paper: stages, what they need, which of them are equal,
and how many examples pass through the model. Rows are made up, as many as the papers have. The order is that
in which `executor.jobs` and Ray begin stages (`executors/queue.py`). For each pass a stage takes as long as
stages of its kind took in the runs that docs/results/plan/times.json was made of, so hours are that machine's
and that model's; what limits, and what stands in relation to what, is the plan's. Answers are no passes:
where a config generates them for all test rows, evaluations take longer than here.
"""

import argparse
import heapq
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grasp_lora
from grasp_lora.collecting import old_objects_left_alone
from grasp_lora.config.tree import Config
from grasp_lora.cost import span
from grasp_lora.data.card import find_card
from grasp_lora.data.folder import write_prepared
from grasp_lora.executors.queue import Queue
from grasp_lora.executors.together import Plan, needs_of
from grasp_lora.methods.plan import plan
from grasp_lora.methods.reading import read_config
from grasp_lora.methods.start import Start
from grasp_lora.tasks.task import Task, load_task
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.environment import environment
from grasp_lora.workspace.pace import Pace
from grasp_lora.workspace.preview import Planned, preview
from grasp_lora.workspace.records import Done, RunPlan
from grasp_lora.workspace.resources import Resources

CONFIGS = Path(grasp_lora.__file__).parent / "configs" / "paper"
TIMES = Path(__file__).parents[1] / "docs" / "results" / "plan" / "times.json"

ALL = {  # rows of splits that cards take whole: Miyano & Arase, Table 1, and Sec. 4.4 for SciTLDR
    ("xlsum_full", "en"): {"train": 306_522, "dev": 11_535, "test": 11_535},
    ("xlsum_full", "ja"): {"train": 7_113, "dev": 889, "test": 889},
    ("wikilingua", "en"): {"train": 98_999},
    ("wikilingua", "ja"): {"train": 8_852},
    ("scitldr", "en"): {"test": 618},
}


@dataclass(frozen=True)
class Simulated:
    """A plan on so many GPUs.

    Attributes:
        makespan: Seconds from the first stage's begin to the last one's end.
        busy: Seconds that GPUs worked, in all.
        chain: Of the longest chain of stages that need each other.
        last: The names of that chain's longest stages.
    """

    gpus: int
    makespan: float
    busy: float
    chain: float
    last: tuple[str, ...]

    @property
    def utilisation(self) -> float:
        """Of all GPUs' time until the end."""
        return self.busy / (self.gpus * self.makespan)

    @property
    def limit(self) -> str:
        """What keeps it from being shorter."""
        if self.busy / self.gpus > 0.95 * self.makespan:
            return "the work: more GPUs help"
        if self.chain > 0.95 * self.makespan:
            return f"the longest chain, most of all {', '.join(self.last)}"
        return "both, and the order"


def made_up(name: str, folder: Path) -> Task:
    """A task with as many rows as its card says, all alike."""
    if not (folder / name / "task.yaml").exists():
        card = find_card(name, [])
        assert card is not None
        rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for code in card.languages:
            sizes = card.language(code).sizes
            text = dict.fromkeys(card.columns(code), "a")
            wanted = sizes.model_dump() | ALL.get((name, code), {})
            rows[code] = {
                split: [
                    {"id": f"{split}{number}", **text} for number in range(0 if count == "all" else count)
                ]
                for split, count in wanted.items()
            }
        prompt = {code: card.template(code) for code in rows}
        task = {"name": name, "prompt": prompt, "target": card.target, "metrics": list(card.metrics)}
        write_prepared(folder / name, task, rows, {})
    return load_task(folder / name)


def starts(folder: Path, copies: int = 1) -> list[Start]:
    """Every experiment of both papers, each with so many seeds' copies."""
    found = []
    for path in sorted(CONFIGS.glob("*/*.yaml")):
        config: Config = read_config(
            path, {"runs": str(folder / "runs"), "dtype": "float32", "device": "cpu"}
        )
        tasks = {side.label: made_up(str(side.task), folder) for side in config.sources if side.task}
        for copy in range(copies):
            again = {"name": f"{config.name}-{copy}", "seed": config.seed + copy} if copy else {}
            own = config.model_copy(update=again)
            found.append(Start(own, made_up(str(config.task), folder), tasks))
    return found


def plans_of(given: Sequence[Start], resources: Resources) -> list[Plan]:
    """Their stages."""
    return [(RunDirectory(x.config.folder, resources), plan(x)) for x in given]


def seconds_of(planned: Sequence[Planned], pace: Pace) -> list[float]:
    """Of each stage; equal ones are made once."""
    return [(pace.seconds("", one.work, one.passes) or 0.0) if one.to_make else 0.0 for one in planned]


def simulate(plans: Sequence[Plan], seconds: Sequence[float], gpus: int) -> Simulated:
    """Begin stages as `executor.jobs` and Ray do: as many at a time as there are GPUs."""
    needs = needs_of(plans)
    queue, running, now = Queue(needs), list[tuple[float, int]](), 0.0
    while True:
        while len(running) < gpus and (number := queue.take(lambda _: True)) is not None:
            heapq.heappush(running, (now + seconds[number], number))
        if not running:
            break
        now, number = heapq.heappop(running)
        queue.made(number)
    chain, last = _longest(needs, seconds)
    names = [stage.name for _, own in plans for stage in own]
    longest = sorted(last, key=lambda n: -seconds[n])[:2]
    return Simulated(gpus, now, sum(seconds), chain, tuple(names[n] for n in longest))


def _longest(needs: Sequence[Sequence[int]], seconds: Sequence[float]) -> tuple[float, list[int]]:
    """The longest chain's length, and its stages."""
    until: list[float] = []
    before: list[int | None] = []
    for number, own in enumerate(needs):
        latest = max(own, key=lambda n: until[n], default=None)
        before.append(latest)
        until.append(seconds[number] + (0.0 if latest is None else until[latest]))
    at: int | None = max(range(len(until)), key=until.__getitem__)
    length, chain = until[at or 0], []
    while at is not None:
        chain.append(at)
        at = before[at]
    return length, chain


def measure_times(runs: Sequence[Path]) -> dict[str, Any]:
    """Seconds and planned passes of all finished stages, by their work."""
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        planned = RunPlan.read(run)
        for name, passes in planned.passes.items():
            done = Done.read(run / name) if (run / name / Done.FILE).exists() else None
            if done is not None:
                own = found.setdefault(done.work, {"stages": 0, "seconds": 0.0, "passes": 0})
                for key, value in {"stages": 1, "seconds": round(done.seconds, 2), "passes": passes}.items():
                    own[key] = round(own[key] + value, 2)
    return {"runs": [run.name for run in runs], "by_work": found, "machine": environment()}


def read_pace(path: Path) -> Pace:
    """As a run learns it from its stages."""
    pace = Pace()
    for work, own in json.loads(path.read_text(encoding="utf-8"))["by_work"].items():
        for _ in range(int(own["stages"])):
            pace.see("", work, own["seconds"] / own["stages"], own["passes"] / own["stages"])
    return pace


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--copies", type=int, default=100, help="of the plan, for the second table")
    parser.add_argument(
        "--times", type=Path, nargs="+", metavar="RUN", help="measure from these runs' folders"
    )
    arguments = parser.parse_args()
    if arguments.times:
        TIMES.parent.mkdir(parents=True, exist_ok=True)
        TIMES.write_text(json.dumps(measure_times(arguments.times), indent=2) + "\n", encoding="utf-8")
    pace = read_pace(TIMES)
    with tempfile.TemporaryDirectory() as folder:
        resources = Resources()
        preview(plans_of(starts(Path(folder)), resources))  # reads the rows, once for all
        print("| plan | stages | to make | GPUs | makespan | utilisation | what limits | planning 1,000 |")
        print("|---|--:|--:|--:|--:|--:|---|--:|")
        for copies in dict.fromkeys([1, arguments.copies]):
            given = starts(Path(folder), copies)
            with old_objects_left_alone():  # as in a run
                began = time.perf_counter()
                plans = plans_of(given, resources)
                planned = preview(plans)
                Queue(needs_of(plans))
                each = 1000 * (time.perf_counter() - began) / len(planned)
            seconds = seconds_of(planned, pace)
            for gpus in arguments.gpus:
                one = simulate(plans, seconds, gpus)
                size = f"{copies} x | {len(planned):,} | {sum(map(bool, seconds)):,}"
                found = f"{span(one.makespan)} | {one.utilisation:.0%} | {one.limit} | {each:.2f} s"
                print(f"| {size} | {gpus} | {found} |", flush=True)


if __name__ == "__main__":
    main()
