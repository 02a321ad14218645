"""A source of a million rows: a run that trains on it reads what it needs."""

import itertools
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.helpers.run import write_setting
from tests.large.measuring import forget_peak, in_own_process, memory, result

import grasp_lora
from grasp_lora.tasks.example import examples_digest
from grasp_lora.tasks.task import check_disjoint, load_task

CONFIG = """
name: many
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
training: {max_steps: 50, learning_rate: 1e-3}
methods: [lora_source]
evaluation: {generate: 0, metrics: []}
max_length: 60
max_new_tokens: 6
"""
FEW = 1000


def write_rows(path: Path, count: int) -> None:
    """Rows of about 200 characters, each other than all others."""
    if path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in _rows(count))
    elif path.suffix == ".csv":
        with path.open("w") as file:
            file.write("text,title\n")
            file.writelines(f"{row['text']},{row['title']}\n" for row in _rows(count))
    else:
        import pyarrow
        from pyarrow import parquet

        schema = pyarrow.schema([("text", pyarrow.string()), ("title", pyarrow.string())])
        with parquet.ParquetWriter(path, schema) as writer:
            rows = _rows(count)
            while batch := list(itertools.islice(rows, 50_000)):
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


def _rows(count: int) -> Iterator[dict[str, str]]:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefgh", k=generator.randint(3, 9))) for _ in range(999)]
    for number in range(count):
        yield {
            "text": f"{number} {' '.join(generator.choices(words, k=24))}",
            "title": generator.choice(words),
        }


def read(path: str) -> dict[str, float]:
    """One look at all rows, as before a run: memory above the start, and CPU seconds of each part."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_setting(Path(temporary))
        text = (folder / "task.yaml").read_text().replace("en-train.jsonl", path)
        (folder / "task.yaml").write_text(text)
        task = load_task(folder)
        dev = task.examples("en", "dev")
        forget_peak()
        before, marks = memory(), [time.process_time()]
        rows = task.examples("en", "train")
        marks.append(time.process_time())
        check_disjoint({"train": rows, "dev": dev})
        marks.append(time.process_time())
        examples_digest(rows)
        marks.append(time.process_time())
        seconds = [round(end - start, 1) for start, end in itertools.pairwise(marks)]
        return {"mb": memory("VmHWM") - before, **dict(zip(("read", "share", "hash"), seconds, strict=True))}


def train(path: str) -> dict[str, float]:
    """A run that trains the source's adapter for 50 steps on a file's rows."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_setting(Path(temporary), CONFIG)
        text = (folder / "task.yaml").read_text().replace("en-train.jsonl", path)
        (folder / "task.yaml").write_text(text)
        start = time.perf_counter()
        grasp_lora.run(folder / "run.yaml", runs=folder / "runs")
        return {"mb": memory("VmHWM"), "seconds": time.perf_counter() - start}


def many_rows(count: int, kinds: Sequence[str] = ("jsonl", "csv", "parquet")) -> list[dict[str, Any]]:
    """Each kind of file with `count` rows against one with a thousand."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        paths = {}
        for kind in kinds:
            for rows in (FEW, count):
                paths[kind, rows] = Path(temporary) / f"{rows}.{kind}"
                write_rows(paths[kind, rows], rows)
            few, many = (in_own_process("read_rows", path=str(paths[kind, rows])) for rows in (FEW, count))
            seconds = {f"{name}_s": many[name] for name in ("read", "share", "hash")}
            size = f"{count:,} rows, {kind}, {paths[kind, count].stat().st_size >> 20:,} MB"
            what = f"memory of a look at all rows, above that of {FEW:,}"
            found.append(result(what, size, many["mb"] - few["mb"], "MB", 60.0, **seconds))
            found.append(
                result("a look at all rows", size, sum(seconds.values()), "s", 60.0 * max(1, count / 10**6))
            )
        few, many = (
            in_own_process("train_on_rows", path=str(paths[kinds[0], rows])) for rows in (FEW, count)
        )
    size = f"{count:,} rows, {kinds[0]}, 50 steps"
    what = f"memory of a run that trains on the rows, above that of {FEW:,}"
    found.append(result(what, size, many["mb"] - few["mb"], "MB", 150.0, whole_mb=round(many["mb"])))
    found.append(
        result(
            "the same run's time, above that of 1,000 rows",
            size,
            many["seconds"] - few["seconds"],
            "s",
            120.0,
        )
    )
    return found
