"""Runs that are killed at random moments until they are done, compared byte for byte with one that was not.

    python -m tests.soak --kills 50

Prints a table, and with --page writes its part of docs/reliability.md. Each attempt is a process of its own
(forked from one that has imported everything, so that a kill can hit any stage) and ends by SIGKILL, with no
chance to tidy up.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import reliability
from tests.helpers.reliability import Part, Table, machine, read_parts, rendered, write_part
from tests.helpers.run import write_setting

CONFIG = """
name: NAME
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
lora: {dropout: 0.1}
training: {epochs: 3, learning_rate: 1e-2}
control: {micro_dev: 4, every: 3, p_min: 0.0}
checkpoint_every: 2
methods: [sequential, joint, merge, merge_prune, grid, random, optuna, halving, grasp, rank_check]
grid: [0.2, 0.5]
optuna: {trials: 3}
halving: {rows: [2, null]}
evaluation: {generate: null, metrics: task}
max_length: 40
max_new_tokens: 6
"""
DIFFER = re.compile(
    r"timings\.jsonl|tensorboard/|done\.json$|eval/.*/cost\.json|survivor/|env\.json|config\.yaml|^report/"
)
"""Say when something was, how long it took, or what the run is called."""


@dataclass
class Kills:
    """What was hit, and what came out."""

    stages: Counter[str] = field(default_factory=Counter)
    resumed: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    different: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.stages.values())


def attempt(folder: Path, name: str, delay: float | None, log: Path) -> int | None:
    """`grasp run` in a process of its own, killed after `delay` seconds; its exit code, or None."""
    sys.stdout.flush()
    sys.stderr.flush()
    if (pid := os.fork()) == 0:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(folder)
        from grasp_lora.cli.main import main

        code = 70
        try:
            code = main(["run", "run.yaml", f"name={name}"])
        finally:
            os._exit(code)
    until = None if delay is None else time.monotonic() + delay
    while True:
        ended, status = os.waitpid(pid, 0 if until is None else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.002)


def files(run: Path) -> dict[str, bytes]:
    """What must be equal: the bytes of each file, and of `done.json` all but times."""
    found = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = str(path.relative_to(run))
        if not DIFFER.search(name):
            found[name] = path.read_bytes()
        if path.name == "done.json" and not name.startswith("report/"):
            done = json.loads(path.read_text())
            counted = [done[key] for key in ("forward_examples", "backward_examples", "steps", "work")]
            found[name] = json.dumps(counted).encode()
        if path.name == "train_log.jsonl":
            found[name] = re.sub(rb'"[^"]*(second|runtime)[^"]*": [^,}]*', b"", found[name])
        if path.name == "scores.json":
            found[name] = re.sub(rb'"(seconds|peak_memory_bytes)": [^,]*', b"", found[name])
    return found


def where(run: Path) -> str:
    """The kind of stage that was being made."""
    partials = [str(p.relative_to(run)) for p in run.rglob("*.partial") if p.is_dir()]
    return partials[0].removesuffix(".partial").split("/")[0] if partials else "between stages"


def soak(kills: int, seed: int, folder: Path) -> Kills:
    """Kill runs until so many kills were made, and each of these runs is done."""
    generator, found, log = random.Random(seed), Kills(), folder / "log.txt"
    write_setting(folder, CONFIG)
    start = time.monotonic()
    command = [sys.executable, "-m", "grasp_lora.cli.main", "run", "run.yaml", "name=whole"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)  # with hashes of its own
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = time.monotonic() - start
    expected = files(folder / "runs/whole")
    while found.count < kills:
        name = f"killed{found.runs}"
        run = folder / "runs" / name
        longest, last = seconds / 6, ""
        while (code := attempt(folder, name, generator.uniform(0.0, longest), log)) is None:
            stage = where(run)
            # What is no training begins again: twice in the same one, it gets more time.
            longest, last = (2 * longest if stage == last else seconds / 6), stage
            found.stages[stage] += 1
            if any(run.rglob("checkpoint-*/whole.json")):
                found.resumed[stage] += 1
            if found.stages.total() > 40 * kills:
                raise SystemExit("it never gets to its end:\n" + log.read_text()[-3000:])
        if code != 0:
            raise SystemExit(f"exit code {code}:\n" + log.read_text()[-3000:])
        made = files(run)
        found.runs += 1
        found.different += [f"{name}/{one}" for one in differing(expected, made)]
    return found


def differing(expected: dict[str, bytes], made: dict[str, bytes]) -> Iterator[str]:
    """Files that are not the same, or only there or only here."""
    for name in sorted(expected.keys() | made.keys()):
        if expected.get(name) != made.get(name):
            yield name


def _part(found: Kills, arguments: argparse.Namespace, seconds: float) -> Part:
    rows = [[stage, str(count), str(found.resumed[stage])] for stage, count in found.stages.most_common()]
    same = f"**{', '.join(found.different)}**" if found.different else "none"
    return Part(
        "kills",
        "Killed and continued",
        f"python -m tests.soak --kills {arguments.kills} --seed {arguments.seed} --page",
        (
            "A run of ten methods on a tiny model (rows alone, and rows in pairs with the source's) is "
            "killed by SIGKILL at a random moment, again and again, until it is done; then its files are "
            "compared byte for byte with those of a run that was not: adapters, masks, rounds, "
            "probes, predictions, scores, and of `done.json` passes and steps. Only times, and logs that "
            "tell them, may differ.",
            f"**{found.count} kills in {found.runs} runs; files that differ: {same}.** {seconds:.0f} s.",
        ),
        (
            Table(
                "What was being made when it was killed:",
                ("stage", "kills", "of them with a checkpoint to go on from"),
                rows,
            ),
        ),
        machine(),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write its part of docs/reliability.md")
    parser.add_argument("--keep", type=Path, help="a folder to work in, which stays")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # before any work: forked processes have no other thread
    import optuna  # noqa: F401
    import peft  # noqa: F401

    import grasp_lora.experiment  # noqa: F401

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        found = soak(arguments.kills, arguments.seed, folder)
    seconds = time.monotonic() - start
    print(f"{found.count} kills in {found.runs} runs, {seconds:.0f} s")
    for stage, count in found.stages.most_common():
        print(f"  {stage}: {count}, of them {found.resumed[stage]} with a checkpoint to go on from")
    print("differing files:", found.different or "none")
    if arguments.page:
        write_part(_part(found, arguments, seconds))
        reliability.PAGE.write_text(rendered(read_parts()), encoding="utf-8")
    return bool(found.different)


if __name__ == "__main__":
    sys.exit(main())
