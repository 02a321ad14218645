"""The paper's steps one at a time, as the command line names them."""

import re
from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.merging.hub import find_adapter
from grasp_lora.merging.reading import base_of
from grasp_lora.methods.evaluations import scoring
from grasp_lora.methods.plan import METHODS, NAMES
from grasp_lora.methods.ready import check_base
from grasp_lora.methods.searched import fixed_run
from grasp_lora.methods.start import Start
from grasp_lora.ratios import PruneRatio
from grasp_lora.stages.evaluate import EVALUATE
from grasp_lora.stages.learn import LEARN
from grasp_lora.workspace.inputs import Bill
from grasp_lora.workspace.stage import Stage, behind

__all__ = ["adapters_of", "evaluation", "final_runs", "fixed_runs", "learning_run", "merges"]


def adapters_of(x: Start, side: str) -> list[Stage | Path]:
    """What trains the adapters of "source" or "target", or where they are that were given."""
    found = [
        adapter
        for one in _repeated(x)
        for adapter in (one.sources.values() if side == "source" else [one.target])
    ]
    return list({str(a) if isinstance(a, Path) else a.name: a for a in found}.values())


def merges(x: Start) -> list[Stage]:
    """The sum of the adapters; one for each seed that they are trained with."""
    return list({one.merged.name: one.merged for one in _repeated(x)}.values())


def _repeated(x: Start) -> list[Start]:
    return [x.first, *(x.repeated(seed) for seed in x.config.seeds)]


def final_runs(x: Start) -> list[Stage]:
    """GRASP's final runs, one per seed."""
    made = [METHODS["grasp"].adapter(x.repeated(seed), seed) for seed in x.config.seeds]
    return [stage for stage in made if isinstance(stage, Stage)]


def learning_run(x: Start) -> Stage:
    """The run that GRASP's ratio comes from."""
    return next(stage for stage in behind(*final_runs(x)) if stage.work is LEARN)


def fixed_runs(x: Start, p: PruneRatio) -> list[Stage]:
    """Final runs at a ratio that the user gives, one per seed."""
    return [fixed_run(x.repeated(seed), p, seed) for seed in x.config.seeds]


def evaluation(x: Start, adapter: str | Path, split: str = "test", name: str | None = None) -> Stage:
    """An adapter of the user's scored as the methods are, so that it can be compared with them.

    Args:
        split: A split of the target's language, or one of its further test sets.
        name: What it is called there; None: after the adapter's folder.

    Raises:
        GraspError: It holds no adapter, or one of another backbone, or the name is a method's.
    """
    if name is not None and not re.fullmatch(r"[\w-][\w.-]*", name):
        raise GraspError(f"--name {name!r} names a folder: letters, digits, _, - and . may be in it")
    folder = find_adapter(adapter)
    check_base(str(adapter), base_of(folder), x.model)
    called = name or _name_of(Path(adapter), x.config.folder)
    if called in (*NAMES.known, *x.config.variants) or called.startswith(("sweep_", "lora_source_")):
        raise GraspError(f"{adapter} would be called {called!r}, which is a method: give it another --name")
    split = f"tests/{split}" if split in x.config.target.tests else split
    given = {
        "adapter": folder,
        **scoring(x, split),
        "bill": Bill(()),
        "behind": {},
        "method": called,
        "title": called,
        "seed": x.config.seed,
        "test_set": "" if split == "test" else split.removeprefix("tests/"),
    }
    where = "eval" if split == "test" else f"tests/{split.removeprefix('tests/')}"
    return Stage(f"{where}/{called}/seed{x.config.seed}", EVALUATE, given)


def _name_of(adapter: Path, run: Path) -> str:
    """Of an adapter of the run, its place there; of another one, its folder's or its hub's name."""
    if not adapter.is_dir():
        parts = list(adapter.parts)
    elif (place := adapter.resolve()).is_relative_to(run.resolve()):
        parts = list(place.relative_to(run.resolve()).parts)
    else:
        parts = [place.name]
    return re.sub(r"[^\w.-]+", "-", "-".join(parts)).strip(".-") or "adapter"
