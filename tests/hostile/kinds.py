"""Each kind of input: its valid files, and how the package reads them. `KINDS` has one entry for each."""

import bz2
import copy
import csv
import gzip
import io
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from tests.helpers import deb
from tests.helpers.models import random_adapter, tiny_llama
from tests.helpers.run import CONFIG, TASK
from tests.hostile.checkpoints import checkpoints, read_checkpoint
from tests.hostile.inputs import Files

from grasp_lora.config.loading import is_config, load_config
from grasp_lora.control.rounds import read_rounds
from grasp_lora.control.selection import select_ratio
from grasp_lora.control.units import adapter_parameters, prune_units
from grasp_lora.data.card import load_card
from grasp_lora.data.handbook.deb import fields, unpack
from grasp_lora.data.prepare import prepare_card
from grasp_lora.data.sources.archives import refuse_damage, walk
from grasp_lora.errors import GraspError
from grasp_lora.experiment import start
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.merging import merge_adapters, read_parts
from grasp_lora.merging.inspect import inspect_adapter
from grasp_lora.methods.plan import NAMES, plan
from grasp_lora.reporting import made, scored
from grasp_lora.reporting.logs import rounds_so_far
from grasp_lora.reporting.overview import overviews, table_of
from grasp_lora.reporting.progress import progress_of
from grasp_lora.reporting.reading import read_run
from grasp_lora.reporting.screen import frame
from grasp_lora.reporting.sections import SECTIONS
from grasp_lora.tasks.task import Task, check_disjoint, load_task
from grasp_lora.workspace.leftovers import leftovers, remove

__all__ = ["KINDS", "MADE", "Kind"]

MADE = "made"
"""A folder beside the one that is read, for what is made of it."""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        valid: From the folder of a small finished run to sets of valid files, by their names.
        read: All that the package does with such files, which are in the folder; GraspError: it refuses them.
        modules: The files below `src/grasp_lora` that read them, whose branches are counted.
    """

    name: str
    valid: Callable[[Path], Sequence[Files]]
    read: Callable[[Path], object]
    modules: tuple[str, ...]


# Configs

INLINE = """
name: inline
backbone: BACKBONE
task:
  name: copy
  prompt: "say {text}\\n"
  target: title
  languages:
    en: {train: en-train.jsonl, dev: en-dev.jsonl}
    ar: {train: ar-train.jsonl, dev: ar-dev.jsonl, micro_dev: ar-micro.jsonl, test: ar-test.jsonl}
source: [{language: en}, {language: en, name: more, train_examples: 3}]
target: {language: ar, tests: {far: far.jsonl}}
training: {learning_rate: 1e-4, epochs: 3}
control: {every: 2, micro_dev: 4, p_min: 0.0, p_max: 0.5, candidates: 2}
methods: [merge, grasp, sweep]
sweep: {ratios: [0.1, 0.3]}
variants: {no_anchor: {beta: 0.0}}
evaluation: {generate: 2, metrics: [rougeL, em]}
"""


def _configs(run: Path) -> list[Files]:
    base = CONFIG.replace("BACKBONE", "some/model").replace("TASK", "task.yaml").encode()
    over = b"extends: base.yaml\nname: over\ntraining: {epochs: 1}\nseeds: [1, 2]\n"
    rows = {"far.jsonl": b'{"text": "a", "title": "b"}\n'}
    return [
        {"run.yaml": INLINE.encode(), **rows},
        {"run.yaml": over, "base.yaml": base},
        {"run.yaml": (run / "config.yaml").read_bytes()},
    ]


def _read_config(folder: Path) -> None:
    path = folder / "run.yaml"
    is_config(path)
    read = load_config(path, ["control.every=3", f"runs={folder.parent / MADE}"], NAMES)
    read.dump()
    if isinstance(read.task, Task) and all(side.task is None for side in read.sources):
        plan(start(read))


# Tasks


def _tasks(run: Path) -> list[Files]:
    def rows(split: str) -> list[dict[str, Any]]:
        return [
            {
                "text": f"{split} {n} \u0627",
                "title": f"t{n}",
                "id": f"{split}{n}",
                "right": ["a", f"t{n}"],
                "of": f"g{n // 2}",
            }
            for n in range(4)
        ]

    lines = "".join(json.dumps(row) + "\n" for row in rows("train")).encode()
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows("test")[0]))
    table.writeheader()
    table.writerows({**row, "right": json.dumps(row["right"])} for row in rows("test"))
    task = yaml.safe_load(TASK) | {"id": "id", "references": "right", "group": "of"}
    task["languages"] = {"en": {"train": "en.jsonl", "test": "en.csv"}, "ar": {"dev": "ar.parquet"}}
    tables = {"en.csv": text.getvalue().encode(), "ar.parquet": _parquet(rows("dev"))}
    return [{"task.yaml": yaml.safe_dump(task).encode(), "en.jsonl": lines, **tables}]


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def _read_task(folder: Path) -> None:
    task = load_task(folder)
    splits = {
        f"{one} {split}": task.examples(one, split, 3)
        for one in task.languages
        for split in task.languages[one]
    }
    for language in task.languages:
        task.new_tokens(language)
    check_disjoint(splits)


# Cards, with what they are prepared from

SIZES = {"train": 2, "dev": 2, "micro_dev": 1, "test": 2, "pool": 1}


def _lines(rows: Iterable[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _card(base: str, more: str = "", language: str = "", without: Sequence[str] = ()) -> bytes:
    """One that asks for few rows of one language."""
    languages = {"en": {"sizes": SIZES} | ({"name": language} if language else {}), **dict.fromkeys(without)}
    return f"extends: {base}\nname: own\n{more}languages: {json.dumps(languages)}\n".encode()


def _cards(run: Path) -> list[Files]:
    numbers = range(12)
    rows = [{"text": f"Text {n}", "target": f"Target {n}", "id": f"i{n}"} for n in numbers]
    table = b"text,target\n" + b"".join(b'"T, %d",x%d\n' % (n, n) for n in numbers)
    articles = [
        {"id": f"a{n}", "url": f"u{n}", "title": "t", "summary": f"Short {n}", "text": f"Long {n}"}
        for n in numbers
    ]
    splits = {
        f"english_{split}.jsonl": _lines(articles[n::3]) for n, split in enumerate(("train", "val", "test"))
    }
    answers = [{"text": "Place", "answer_start": 0}]
    paragraphs = [
        {"context": f"Place {n}.", "qas": [{"id": f"q{n}", "question": f"Where {n}?", "answers": answers}]}
        for n in numbers
    ]
    squad = {"version": "1", "data": [{"title": "t", "paragraphs": [one]} for one in paragraphs]}
    parts = {
        f"https://x/{n}": {"A": {"summary": f"Do {n}.", "document": f"First {n}, then more."}}
        for n in numbers
    }
    papers = {
        split: _lines(
            {"source": [f"S {split} {n}."], "target": [f"T {n}."], "paper_id": f"{split}{n}", "title": "x"}
            for n in range(4)
        )
        for split in ("train", "dev", "test")
    }
    others = ["ar", "zh", "de", "es", "hi", "vi"]
    xlsum = {"card.yaml": _card("xlsum", language="english", without=["ar", "zh", "ja"])}
    wikilingua = {"card.yaml": _card("wikilingua", language="english", without=["ja"])}
    return [
        {"card.yaml": _card("jsonl", "options: {id: id}\nunique: [text]\n"), "data/en.jsonl": _lines(rows)},
        {"card.yaml": _card("csv"), "data/en.csv": table},
        {"card.yaml": _card("parquet"), "data/en.parquet": _parquet(rows)},
        xlsum | {"data/english.tar.bz2": bz2.compress(_tar(splits))},
        {"card.yaml": _card("squad_json", without=others), "data/xquad.en.json": json.dumps(squad).encode()},
        wikilingua | {"data/english.json": json.dumps(parts).encode()},
        {"card.yaml": _card("scitldr"), **{f"data/{split}.jsonl": papers[split] for split in papers}},
    ]


def _read_card(folder: Path) -> None:
    card = load_card(folder / "card.yaml")
    for code in card.languages:
        card.new_tokens(code)
    # With a hub and no source it would be downloaded: that is not what is tried here.
    prepared = prepare_card(card, folder / "data", folder.parent / MADE / "task")
    load_task(prepared)


# Archives


def _tar(members: dict[str, bytes]) -> bytes:
    return deb.tar([deb.entry(name, content) for name, content in members.items()])


def _archives(run: Path) -> list[Files]:
    members = {"a/one.jsonl": b'{"a": 1}\n' * 9, "two.jsonl.gz": gzip.compress(b'{"b": 2}\n'), "other": b"x"}
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    tar = _tar(members)
    folder = run / "hostile-debs"
    folder.mkdir(exist_ok=True)
    debs = {
        f"{n}.deb": deb.deb(folder / f"{n}.deb", tar, packing=p).read_bytes()
        for n, p in enumerate((".xz", ".gz", ""))
    }
    shutil.rmtree(folder)
    tars = {
        "a.tar": tar,
        "b.tar.gz": gzip.compress(tar),
        "c.tar.bz2": bz2.compress(tar),
        "d.zip": zipped.getvalue(),
    }
    return [{name: content} for name, content in (tars | debs).items()]


def _read_archive(folder: Path) -> None:
    with refuse_damage(str(folder)):
        for _, _, file in walk(folder, lambda name: name.endswith(".jsonl")):
            while file.read(1 << 16):
                pass
    for path in folder.glob("*.deb"):
        fields(path)
        unpack(path, folder.parent / MADE)


# Adapters


def _adapters(run: Path) -> list[Files]:
    folder = run / "hostile-adapter"
    random_adapter(
        tiny_llama(1), folder, seed=1, target_modules=["q_proj"], r=2, rank_pattern={"layers.0.q_proj": 3}
    )
    plain = _files(folder)
    shutil.rmtree(folder)
    merged = _files(run / "merged")
    return [{name: files[name] for name in files if not name.endswith(".md")} for files in (plain, merged)]


@cache
def _model(layers: int) -> Any:
    return tiny_llama(layers).requires_grad_(False)


@cache
def _other(place: Path) -> Path:
    """An adapter that nothing is wrong with."""
    return random_adapter(tiny_llama(), place / "other", seed=2, target_modules=["q_proj", "v_proj"], r=2)


def _read_adapter(folder: Path) -> None:
    refused = None
    for step in (
        lambda: inspect_adapter(folder),
        lambda: merge_adapters(
            {"one": folder, "two": _other(folder.parent.parent)}, folder.parent / MADE / "merged"
        ),
        lambda: load_adapter(copy.deepcopy(_model(2)), folder, trainable=True),
    ):
        try:
            step()
        except GraspError as error:  # the others may take what one of them refuses
            refused = error
    if refused is not None:
        raise refused


def _parts(run: Path) -> list[Files]:
    files = _files(run / "merged")
    return [{"parts.json": files["parts.json"]}]


def _read_parts(folder: Path) -> None:
    parts = read_parts(folder)
    if parts is None:
        return
    merged = _merged(folder.parent.parent)
    inspect_adapter(merged, merge=folder)
    factors = adapter_parameters(_trainable(folder.parent.parent))
    for unit in prune_units(factors, parts):
        unit.of(list(factors.values()))
    merge_adapters({"one": merged}, folder.parent / MADE / "merged")


@cache
def _merged(place: Path) -> Path:
    return place / "run" / "merged"


@cache
def _trainable(place: Path) -> Any:
    return load_adapter(copy.deepcopy(_model(2)), _merged(place), trainable=True)


# What a run leaves


def _rounds(run: Path) -> list[Files]:
    return [{"rounds.jsonl": (run / "learn/seed42/rounds.jsonl").read_bytes()}]


def _read_rounds(folder: Path) -> None:
    rounds_so_far(folder)
    rounds = read_rounds(folder)
    for one in rounds:
        one.log_values()
        one.to_json()
    for rule in ("best", "last", "policy_mean", "curve", "sparsest"):
        select_ratio(rounds, rule)


SHORT = b"""
backbone: some/model
source: [{language: en}]
target: {language: ar, draws: 1}
control: {p_min: 0.0}
variants: {own: {every: 2}}
methods: [grid, grasp]
seeds: [42]
"""


def _runs(run: Path) -> list[Files]:
    """A run, once whole, and once in the making, with leftovers of all kinds. Its config is short: it is read
    five times, and PyYAML is slow.
    """
    whole = {name: content for name, content in _files(run).items() if _is_read(name)} | {
        "config.yaml": SHORT
    }
    begun = ("learn/", "eval/grasp/", "plan.json", "config.yaml", "grid/p0.20-seed42/done.json")
    growing = {name: content for name, content in whole.items() if name.startswith(begun)}
    learn = {name: content for name, content in whole.items() if name.startswith("learn/seed42/")}
    growing |= {name.replace("seed42", "seed7.partial"): learn[name] for name in learn if "done" not in name}
    growing |= {name.replace("seed42", "seed42.replaced-1"): learn[name] for name in learn}
    growing |= {f"grid/p0.20-seed42/checkpoint-1/{name}": b"{}" for name in ("trainer_state.json", "x.json")}
    return [whole, growing]


def _is_read(name: str) -> bool:
    return (
        not name.endswith((".md", ".svg", ".png", ".csv", ".tex", ".html", ".safetensors"))
        and "tensorboard" not in name
    )


def _read_run(folder: Path) -> None:
    made.made_in.cache_clear()
    scored._evaluated.cache_clear()
    console = Console(file=io.StringIO(), width=100)
    for one in overviews(folder):
        json.dumps(one.to_json(), allow_nan=False)
        console.print(table_of([one], time.time()))
    progress = progress_of(folder)
    console.print(frame(progress, 100))
    for leftover in leftovers(folder):
        remove(leftover)
    found = read_run(folder)
    for section in SECTIONS:
        list(section.blocks(found))


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


KINDS = (
    Kind("config", _configs, _read_config, ("config/loading.py", "config/tree.py", "config/parts.py")),
    Kind("task files", _tasks, _read_task, ("tasks/task.py", "tasks/files.py", "tasks/prompt.py")),
    Kind(
        "cards", _cards, _read_card,
        ("data/card.py", "data/prepare.py", "data/corpus.py", "data/folder.py", "data/sampling.py",
         "data/sources/base.py", "data/sources/table.py", "data/sources/patterns.py", "data/sources/squad.py",
         "data/sources/wikilingua.py", "data/sources/scitldr.py", "data/sources/xlsum.py"),
    ),
    Kind("archives", _archives, _read_archive, ("data/sources/archives.py", "data/handbook/deb.py")),
    Kind(
        "adapter folders", _adapters, _read_adapter,
        ("merging/reading.py", "merging/inspect.py", "merging/sum.py", "merging/writing.py"),
    ),
    Kind("parts.json", _parts, _read_parts, ("merging/parts.py", "control/units.py")),
    Kind("rounds.jsonl", _rounds, _read_rounds, ("control/rounds.py", "control/selection.py")),
    Kind(
        "checkpoints", checkpoints, read_checkpoint,
        ("lm/checkpoints.py", "control/fixed_mask.py", "control/controller.py", "control/merge_prune.py",
         "lm/epochs.py", "lm/saving.py"),
    ),
    Kind(
        "run directories", _runs, _read_run,
        ("reporting/reading.py", "reporting/progress.py", "reporting/overview.py", "reporting/logs.py",
         "reporting/made.py", "reporting/making.py", "reporting/scored.py", "reporting/trained.py",
         "workspace/records.py", "workspace/rows.py", "workspace/leftovers.py"),
    ),
)  # fmt: skip
