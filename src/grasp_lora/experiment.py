"""Running experiments: what the command `grasp run`, a script and a notebook call."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from grasp_lora.config.loading import load_config, validated
from grasp_lora.config.tree import Config
from grasp_lora.data.find import find_task
from grasp_lora.errors import GraspError
from grasp_lora.executors.local import execute
from grasp_lora.methods.plan import NAMES, plan
from grasp_lora.methods.ready import check_ready
from grasp_lora.methods.start import Start
from grasp_lora.metrics.significance import Test
from grasp_lora.reporting.compare import comparison
from grasp_lora.reporting.found import together
from grasp_lora.tasks.task import Task
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.records import Row
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, behind, resolve

__all__ = ["Result", "compare", "make", "read_config", "run", "start"]

Named = Config | str | Path


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left.

    Attributes:
        folder: The run directory; the report is in `report/`.
        rows: The evaluated adapters, one per method and seed: losses, scores, cost.
        adapter: The folder of the adapter to use: the reference method's (GRASP's, where it is among them)
            with the first seed; None where that is the bare backbone.
        ratio: p*, the ratio that this adapter was pruned at; None where it was not.
    """

    folder: Path
    rows: tuple[Row, ...]
    adapter: Path | None
    ratio: float | None


@overload
def run(config: Named, *, force: bool = ..., **overrides: Any) -> Result: ...
@overload
def run(config: Sequence[Named], *, force: bool = ..., **overrides: Any) -> list[Result]: ...
def run(config: Named | Sequence[Named], *, force: bool = False, **overrides: Any) -> Result | list[Result]:
    """Run a whole experiment, or several: adapters, merge, learn, final run, evaluation, report.

    A stage that is done is skipped. Of several experiments, stages of equal inputs are made once, and the
    others get a copy.

    Args:
        config: A YAML file or a config; or several.
        force: Make stages again whose settings changed; what they held is moved aside.
        overrides: Keys of the config, of a part by its keys (`control={"every": 5}`) or dotted
            (`**{"control.every": 5}`).

    Raises:
        GraspError: Something is wrong that you can mend; the message says what, where and how.

    Example:
        >>> result = grasp_lora.run("titles.yaml", control={"every": 5})  # doctest: +SKIP
        >>> result.ratio, result.adapter  # doctest: +SKIP
    """
    if isinstance(config, Config | str | Path):
        return run([config], force=force, **overrides)[0]
    if isinstance(config, Mapping | bytes) or not isinstance(config, Iterable):
        raise GraspError(f"an experiment is a YAML file, a Config, or a list of them; got {config!r}")
    starts = [start(one, overrides) for one in config]
    folders = [x.config.folder.resolve() for x in starts]
    if twice := sorted({str(folder) for folder in folders if folders.count(folder) > 1}):
        raise GraspError(f"two experiments would write to {twice[0]}: give each another name")
    resources = Resources()
    plans = [(_directory(x, resources, force), plan(x)) for x in starts]
    for x, (directory, stages) in zip(starts, plans, strict=True):
        check_ready(x, stages, directory)
    execute(plans)
    return [_result(directory, stages) for directory, stages in plans]


def make(x: Start, stages: Sequence[Stage], *, force: bool = False) -> list[Path]:
    """Make some stages; those that they need must be done, with the same settings. Returns their folders.

    Raises:
        GraspError: As `run`, and where a stage that is needed is not done.
    """
    directory = _directory(x, Resources(), force, only={stage.name for stage in stages})
    check_ready(x, stages, directory)
    execute([(directory, behind(*stages))])
    return [directory.path(stage.name) for stage in stages]


def compare(config: Named, methods: tuple[str, str], test: Test = "randomisation") -> str:
    """Two methods of a run under every metric, as a table. The seeds are the config's, as far as evaluated.

    Raises:
        GraspError: A method was not evaluated.
    """
    read = read_config(config)
    found = []
    for method in methods:
        folders = [read.folder / "eval" / method / f"seed{seed}" for seed in read.seeds]
        rows = [Row.read(folder) for folder in folders if (folder / Row.SCORES_FILE).exists()]
        if not rows:
            known = ", ".join(sorted(path.name for path in (read.folder / "eval").glob("*"))) or "none"
            raise GraspError(f"{read.folder} has no evaluation of '{method}'; evaluated are: {known}")
        found += rows
    if methods[0] == methods[1]:
        raise GraspError(f"'{methods[0]}' cannot be compared with itself")
    first, second = together(found)
    return comparison(first, second, test)


def read_config(config: Named, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Config:
    """The config of a YAML file, or a config, whose methods are known ones.

    Raises:
        GraspError: One message that lists every fault.
    """
    if not isinstance(config, Config):
        return load_config(Path(config), overrides, NAMES)
    if overrides:
        raise GraspError("a Config takes no overrides: change it with model_copy, or give the YAML file")
    return validated(config.model_dump(), "the Config", NAMES)  # model_copy looks at nothing


def start(config: Named, overrides: Iterable[str] | Mapping[str, Any] = ()) -> Start:
    """A config with its task, which is prepared if it has a card and is not there yet."""
    read = read_config(config, overrides)
    return Start(read, read.task if isinstance(read.task, Task) else find_task(read.task))


def _directory(x: Start, resources: Resources, force: bool, only: set[str] | None = None) -> RunDirectory:
    return RunDirectory(x.config.folder, resources, config=x.config.dump(), force=force, only=only)


def _result(directory: RunDirectory, stages: Sequence[Stage]) -> Result:
    report = stages[-1].given
    rows = tuple(Row.read(directory.path(row.name)) for row in report["rows"])
    shown = next(i for i, row in enumerate(rows) if row.method == report["reference"])
    adapter = resolve(report["rows"][shown].given["adapter"], directory)
    return Result(directory.root, rows, adapter, rows[shown].p)
