"""`python -m tests.hostile`: many inputs of each kind, the named cases, and what came of them as a part of
docs/reliability.md.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import reliability
from tests.helpers.reliability import Part, Table, machine, read_parts, rendered, write_part
from tests.hostile.run import make_run

NAME = "hostile"
ROOT = reliability.ROOT
MEMORY = 8 << 30  # bytes that a process may have: what asks for more fails
HEAD = (
    "kind", "inputs", "valid ones mutated", "accepted", "refused", "tracebacks", "changed or called outside",
    "branches", "slowest", "minutes",
)  # fmt: skip
TEXT = (
    "Inputs are drawn by hypothesis, whose choices a fuzzer that looks at branches can make as well: "
    "`python -m tests.hostile.atheris_driver KIND -runs=N`, after `pip install atheris` (which has wheels "
    "for some Pythons only, so it is none of the development tools). A valid one that is mutated has one "
    "to three changes in its files: keys and values of JSON, YAML and safetensors' headers, or bytes. The "
    "others have a file that holds anything. Each is read by all that reads such files, and must be "
    "accepted or refused in one message. An audit hook notes each file that Python would change outside "
    "the run's folder, each program, connection and pickle; a folder beside it is compared before and "
    "after. *Branches* are those of the files that read this kind, of which some are for what no file can "
    "bring about.",
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, metavar="N", help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=[], help="only these; the others' rows stay")
    parser.add_argument("--jobs", type=int, default=1, help="kinds at a time")
    parser.add_argument(
        "--cases", action=argparse.BooleanOptionalAction, default=True, help="named ones, too"
    )
    parser.add_argument("--one", nargs=2, metavar=("KIND", "RUN"), help=argparse.SUPPRESS)
    known = parser.parse_args(arguments)
    if known.one:
        print(json.dumps(_count(*known.one, known.inputs)))
        return
    part = _measured(known.inputs, known.kinds, known.jobs, known.cases)
    write_part(part)
    reliability.PAGE.write_text(rendered(read_parts()), encoding="utf-8")
    print(part.tables)


def _measured(number: int, wanted: list[str], jobs: int, cases: bool) -> Part:
    from tests.hostile.kinds import KINDS

    before = next((part for part in read_parts() if part.name == NAME), None)
    rows = {row[0]: list(row) for row in before.tables[0].rows} if before else {}
    waiting = [kind.name for kind in KINDS if not wanted or kind.name in wanted]
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        run, running = make_run(Path(folder) / "run"), list[tuple[str, subprocess.Popen[str]]]()
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append((waiting[0], _start(waiting.pop(0), run, number)))
            name, process = running.pop(0)
            said, _ = process.communicate()
            assert process.returncode == 0, f"{name} ended with {process.returncode}"
            rows[name] = _row(json.loads(said.splitlines()[-1]))
            print(rows[name], file=sys.stderr, flush=True)
    ordered = [rows[kind.name] for kind in KINDS if kind.name in rows]
    named = _cases() if cases else before.tables[1].rows if before else []
    return Part(
        NAME,
        "Hostile and broken input",
        f"python -m tests.hostile --inputs {number}",
        TEXT,
        (
            Table("", HEAD, ordered),
            Table(
                "Cases by name, each tried as often as its tests say:",
                ("case", "what happens", "tried", "tests"),
                named,
            ),
        ),
        machine("hypothesis", "coverage"),
    )


def _start(kind: str, run: Path, number: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.hostile", "--inputs", str(number), "--one", kind, str(run)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def _count(name: str, run: str, number: int) -> dict[str, Any]:
    """All inputs of a kind in this process, with the branches of its readers."""
    import coverage
    from tests.hostile.kinds import KINDS
    from tests.hostile.trying import Place, Tally, property_of

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    kind = next(kind for kind in KINDS if kind.name == name)
    files = [str(ROOT / "src/grasp_lora" / module) for module in kind.modules]
    measured = coverage.Coverage(branch=True, include=files, data_file=None)
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        place = Place(Path(folder), Path(run), kind)
        measured.start()
        property_of(kind, place, tally, number, stop=False)()
        measured.stop()
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        totals = json.loads(report.read_text())["totals"]
    branches = [totals["covered_branches"], totals["num_branches"]]
    about = {f.name: getattr(tally, f.name) for f in fields(tally)}  # `asdict` cannot copy a Counter
    return {"kind": name, **about, "branches": branches, "seconds": time.monotonic() - began}


def _row(found: dict[str, Any]) -> list[str]:
    covered, of = found["branches"]
    for what in ("escaped", "outside"):
        for place, times in found[what].items():
            print(f"{found['kind']}: {what}, {times} times: {place}", file=sys.stderr)
    return [
        found["kind"],
        f"{found['inputs']:,}",
        f"{found['mutated'] / found['inputs']:.0%}",
        f"{found['accepted']:,}",
        f"{found['refused']:,}",
        str(sum(found["escaped"].values())),
        str(sum(found["outside"].values())),
        f"{covered / of:.0%} of {of}",
        f"{found['slowest']:.1f} s",
        f"{found['seconds'] / 60:.0f}",
    ]


def _cases() -> list[list[str]]:
    """The tests with the marker `hostile`, run: what each case's tests are called, and how many passed."""
    found: dict[str, dict[str, Any]] = {}

    class Counted:
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            for item in items:
                for mark in item.iter_markers("hostile"):
                    case = found.setdefault(mark.args[0], {"what": {}, "tests": {}, "ids": set()})
                    case["what"][mark.args[1]] = case["tests"][item.nodeid.partition("[")[0]] = None
                    case["ids"].add(item.nodeid)

    passed: set[str] = set()

    class Passed:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" and report.passed:
                passed.add(report.nodeid)

    code = pytest.main(
        ["-q", "-m", "hostile", "-p", "no:cacheprovider", str(ROOT / "tests")], [Counted(), Passed()]
    )
    assert code == 0, f"a named case failed: pytest ended with {code}"
    return [
        [
            case,
            "; ".join(about["what"]),
            str(len(about["ids"] & passed)),
            ", ".join(f"`{_called(t)}`" for t in about["tests"]),
        ]
        for case, about in sorted(found.items())
    ]


def _called(node: str) -> str:
    path, _, name = node.partition("::")
    return f"{Path(path).name}::{name}"


if __name__ == "__main__":
    main()
