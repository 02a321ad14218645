"""Running experiments: what the command `grasp run`, a script and a notebook call."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from grasp_lora.collecting import old_objects_left_alone
from grasp_lora.config.tree import Config
from grasp_lora.errors import GraspError
from grasp_lora.executors.execute import execute
from grasp_lora.executors.launched import follow, leading
from grasp_lora.executors.settings import Executor
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.merging.hub import CONFIG_FILE as ADAPTER_CONFIG
from grasp_lora.methods.plan import plan
from grasp_lora.methods.reading import Named, read_config, read_configs, start
from grasp_lora.methods.ready import check_ready
from grasp_lora.methods.start import Start
from grasp_lora.methods.steps import evaluation
from grasp_lora.metrics.significance import Test
from grasp_lora.ranks import is_first
from grasp_lora.ratios import PruneRatio
from grasp_lora.reporting.compare import comparison, overview, read_results, reference_of
from grasp_lora.reporting.found import MethodResult, together
from grasp_lora.reporting.report import report
from grasp_lora.reporting.verdict import verdict
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.forecast import Forecast
from grasp_lora.workspace.forecast import forecast as forecast_of
from grasp_lora.workspace.preview import Planned, plan_of
from grasp_lora.workspace.preview import preview as preview_of
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.room import warn_of_memory
from grasp_lora.workspace.rows import Row
from grasp_lora.workspace.stage import Stage, behind, resolve

__all__ = [
    "Result",
    "check",
    "compare",
    "dev_losses",
    "evaluate",
    "forecast",
    "make",
    "preview",
    "read_config",
    "read_configs",
    "report_of",
    "run",
    "start",
]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left.

    Attributes:
        folder: The run directory; the report is in `report/`.
        verdict: Three lines: what to deploy, whether pruning helped, what it cost.
        adapter: The folder of the adapter to use, with the first seed: of the method that took the fewest
            example passes of those within noise of the best on dev, or of one that is better than it and took
            fewer; None where that is the bare backbone.
        ratio: p*, the ratio that the reference method found (GRASP, where it is among them); None where its
            adapter was not pruned.
        rows: The evaluated adapters, one per method and seed: losses, scores, cost.
    """

    folder: Path
    verdict: tuple[str, ...]
    adapter: Path | None
    ratio: PruneRatio | None
    rows: tuple[Row, ...]


@overload
def run(config: Named, *, force: bool = ..., **overrides: Any) -> Result: ...
@overload
def run(config: Sequence[Named], *, force: bool = ..., **overrides: Any) -> list[Result]: ...
def run(config: Named | Sequence[Named], *, force: bool = False, **overrides: Any) -> Result | list[Result]:
    """Run a whole experiment, or several: adapters, merge, learn, final run, evaluation, report.

    A stage that is done is skipped. Of several experiments, stages of equal inputs are made once, and the
    others get a copy. Where a launcher such as torchrun started several processes, each calls this: they
    train together, the first one writes, and all have the result.

    Args:
        config: A YAML file or a config; or several, of which YAML files may have `axes`.
        force: Make stages again whose settings changed; what they held is moved aside.
        overrides: Keys of the config, of a part by its keys (`control={"every": 5}`) or dotted
            (`**{"control.every": 5}`).

    Raises:
        GraspError: Something is wrong that you can mend; the message says what, where and how.

    Examples:
        >>> result = grasp_lora.run("titles.yaml", control={"every": 5})  # doctest: +SKIP
        >>> result.ratio, result.adapter  # doctest: +SKIP
    """
    if isinstance(config, Config | str | Path):
        return run([read_config(config, overrides)], force=force)[0]
    if isinstance(config, Mapping | bytes) or not isinstance(config, Iterable):
        raise GraspError(f"an experiment is a YAML file, a Config, or a list of them; got {config!r}")
    follow()
    with leading(), old_objects_left_alone():
        read = [(one, read_configs(one, overrides)) for one in config]
        starts = [start(one) for _, several in read for one in several]
        plans = _plans(starts, force)
        if is_first() and plans:
            _make_all(starts, plans)
            for file, several in read:
                if len(several) > 1:
                    report_of(file, several)
    return [_result(directory, stages) for directory, stages in plans]


def report_of(file: Named, configs: Sequence[Config]) -> Path:
    """Make the one report of all runs that a YAML file with `axes` made; the page."""
    name = file.name if isinstance(file, Config) else Path(file).stem
    return report([config.folder for config in configs], Path("reports") / name)


def _make_all(starts: Sequence[Start], plans: Sequence[tuple[RunDirectory, list[Stage]]]) -> None:
    for x, (directory, stages) in zip(starts, plans, strict=True):
        check_ready(x, stages, directory)
    for directory, stages in plans:
        rows = stages[-1].given["rows"]
        methods = dict.fromkeys(row.given["method"] for row in rows)
        directory.plan = plan_of(directory, stages, tuple(methods))
    executor = _executor(starts)
    if executor.where == "local":  # else others' memory counts
        warn_of_memory(plans)
    execute(plans, executor)


def preview(configs: Sequence[Named], overrides: Iterable[str] | Mapping[str, Any] = ()) -> list[Planned]:
    """What `run` would do with the configs, in its order; the rows of their tasks are read, and what is done.

    Raises:
        GraspError: As `run`.
    """
    with old_objects_left_alone():
        return preview_of(_plans(_starts(configs, overrides), force=False))


def forecast(configs: Sequence[Named], overrides: Iterable[str] | Mapping[str, Any] = ()) -> Forecast:
    """What `run` would do with the configs, and what it would take; see `workspace.forecast`.

    Raises:
        GraspError: As `run`.
    """
    with old_objects_left_alone():
        return forecast_of(_plans(_starts(configs, overrides), force=False))


def check(configs: Sequence[Named], overrides: Iterable[str] | Mapping[str, Any] = ()) -> None:
    """Raise what `run` would refuse before it trains anything."""
    with old_objects_left_alone():
        starts = _starts(configs, overrides)
        for x, (directory, stages) in zip(starts, _plans(starts, force=False), strict=True):
            check_ready(x, stages, directory)


def _starts(configs: Sequence[Named], overrides: Iterable[str] | Mapping[str, Any]) -> list[Start]:
    return [start(one) for config in configs for one in read_configs(config, overrides)]


def make(x: Start, stages: Sequence[Stage], *, force: bool = False) -> list[Path]:
    """Make some stages; those that they need must be done, with the same settings. Returns their folders.

    Raises:
        GraspError: As `run`, and where a stage that is needed is not done.
    """
    directory = _directory(x, Resources(), force, only={stage.name for stage in stages})
    check_ready(x, stages, directory)
    execute([(directory, behind(*stages))], x.config.executor)
    return [directory.path(stage.name) for stage in stages]


def evaluate(
    x: Start, adapter: str | Path, *, split: str = "test", name: str | None = None, force: bool = False
) -> Row:
    """Score any PEFT adapter of the experiment's backbone as its methods are.

    Args:
        adapter: A folder, or OWNER/NAME[@REVISION] on the model hub.
        split: A split of the target's language, or one of `target.tests`.
        name: What it is called in the run's folder and in comparisons; None: after the adapter's own.

    Raises:
        GraspError: It is no adapter, or of another backbone.
    """
    (folder,) = make(x, [evaluation(x, adapter, split, name)], force=force)
    return Row.read(folder)


def dev_losses(x: Start, *folders: Path) -> tuple[float, ...]:
    """The loss on the target's dev rows of adapters of the experiment's backbone, or of whole models.

    Raises:
        GraspError: There are no dev rows, or an adapter is of another backbone.
    """
    resources, dev = Resources(), x.rows(x.config.target, "dev")
    examples, found = resources.examples(dev), list[float]()
    for folder in folders:
        if not (folder / ADAPTER_CONFIG).exists():
            backbone = resources.backbone(replace(x.model, name=str(folder), revision=None))
            found.append(resources.loss(examples, backbone, x.limits)(backbone.model))
            continue
        backbone = resources.backbone(x.model)
        adapted = load_adapter(backbone.model, folder, trainable=False)
        found.append(resources.loss(examples, backbone, x.limits)(adapted))
    return tuple(found)


def compare(
    what: Sequence[str],
    against: str | None = None,
    test: Test = "randomisation",
    overrides: Iterable[str] = (),
) -> str:
    """Evaluated methods side by side, as a table: two with their differences, or several with marks.

    Args:
        what: METHODs of the run of a YAML file that stands before them; RUN:METHOD of a run's folder; or a
            RUN, which is all of its methods.
        against: The one of them that the others are tested against; None: the first one's report's reference,
            where it is among them, or else the first.
        overrides: Those of the YAML file.

    Raises:
        GraspError: Something was not evaluated, or on other test rows.
    """
    names, config = list(what), None
    if names and names[0].endswith((".yaml", ".yml")):
        config = read_config(names.pop(0), overrides)
    if more := [name for name in names if name.endswith((".yaml", ".yml")) or ".yaml:" in name]:
        raise GraspError(f"give one YAML file, before its methods, and other runs as folders; got {more[0]}")
    found = [result for name in names for result in _evaluated(name, config)]
    if against is not None:
        reference = _evaluated(against, config)[0]
        found = found if reference in found else [reference, *found]
    if len(found) < 2 or any(found.count(result) > 1 for result in found):
        raise GraspError("name two different methods, each once: METHOD after a YAML file, or RUN:METHOD")
    if against is None:
        if len(found) == 2:
            return comparison(found[0], found[1], test)
        usual = reference_of(Path(found[0].run))
        own = [result for result in found if (result.run, result.method) == (found[0].run, usual)]
        reference = own[0] if own else found[0]
    return overview(found, reference, test)


def _evaluated(name: str, config: Config | None) -> list[MethodResult]:
    run, colon, method = name.rpartition(":")
    if colon:
        return read_results(Path(run), method or None)
    if config is not None and "/" not in name:
        return read_results(config.folder, name, config.seeds)
    if Path(name).is_dir():
        return read_results(Path(name))
    if config is None:
        raise GraspError(
            f"'{name}' is neither RUN:METHOD, as in runs/titles:merge, nor a run's folder, and no YAML file "
            "stands before"
        )
    return read_results(config.folder, name, config.seeds)


def _executor(starts: Sequence[Start]) -> Executor:
    first, *others = (x.config.executor for x in starts)
    if any(other != first for other in others):
        raise GraspError("several experiments have one executor: give the same to all, as executor.jobs=2")
    return first


def _plans(starts: Sequence[Start], force: bool) -> list[tuple[RunDirectory, list[Stage]]]:
    folders = [x.config.folder.resolve() for x in starts]
    if twice := sorted({str(folder) for folder in folders if folders.count(folder) > 1}):
        raise GraspError(f"two experiments would write to {twice[0]}: give each another name")
    resources = Resources()
    return [(_directory(x, resources, force), plan(x)) for x in starts]


def _directory(x: Start, resources: Resources, force: bool, only: set[str] | None = None) -> RunDirectory:
    config = x.config  # all else is shared
    own = replace(resources, checkpoint_every=config.checkpoint_every, report_to=config.report_to)
    return RunDirectory(x.config.folder, own, config=x.config.dump(), force=force, only=only)


def _result(directory: RunDirectory, stages: Sequence[Stage]) -> Result:
    shown = stages[-1].given
    rows = tuple(Row.read(directory.path(row.name)) for row in shown["rows"])
    said = verdict(together(rows))
    deployed = next(i for i, row in enumerate(rows) if row.method == said.method)
    adapter = resolve(shown["rows"][deployed].given["adapter"], directory)
    ratio = next(row.p for row in rows if row.method == shown["reference"])
    return Result(directory.root, said.lines, adapter, ratio, rows)
