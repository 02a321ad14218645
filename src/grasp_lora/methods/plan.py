"""The methods, and the stages that a config asks for."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from grasp_lora.config.tree import Config, MethodNames
from grasp_lora.errors import GraspError
from grasp_lora.methods.baselines import MERGED, SINGLE
from grasp_lora.methods.combinations import COMBINATIONS
from grasp_lora.methods.evaluations import deployed, dev_scores, evaluated
from grasp_lora.methods.folds import FOLDS
from grasp_lora.methods.learned import LEARNED, variant
from grasp_lora.methods.method import Adapter, Group, Method, Study
from grasp_lora.methods.samples import moved, refitted
from grasp_lora.methods.searched import SEARCHED
from grasp_lora.methods.start import Start
from grasp_lora.methods.studies import STUDIES
from grasp_lora.stages.curve import CURVE
from grasp_lora.stages.fold_halving import HALVE_FOLDS
from grasp_lora.stages.halving import HALVE
from grasp_lora.stages.learn import LEARN
from grasp_lora.stages.report import REPORT
from grasp_lora.stages.select import SELECT
from grasp_lora.stages.train import TRAIN
from grasp_lora.workspace.inputs import Rows
from grasp_lora.workspace.stage import Stage, Work, behind, inside

__all__ = ["METHODS", "NAMES", "chosen", "plan"]

_ALL: tuple[Method | Group | Study, ...] = (
    *SINGLE, *COMBINATIONS, *MERGED, *SEARCHED, *FOLDS, *LEARNED, *STUDIES
)  # fmt: skip
_LISTED = {one.name: one for one in _ALL}
logger = logging.getLogger(__name__)

METHODS = {name: one for name, one in _LISTED.items() if isinstance(one, Method)}
_STUDIES = {name: one for name, one in _LISTED.items() if isinstance(one, Study)}
NAMES = MethodNames(
    known=tuple(_LISTED),
    all=tuple(name for name, one in _LISTED.items() if one.in_all),
    default=tuple(name for name, method in METHODS.items() if method.default),
)
REFIT = "_refit"  # ends the name of a method once more, on all labelled rows


def chosen(config: Config) -> list[Method]:
    """The methods and variants that a config names, in its order.

    Raises:
        GraspError: There is no such method, none but studies of methods, or two of one name.
    """
    if unknown := [name for name in config.methods if name not in _LISTED]:
        raise GraspError(f"no method is called {unknown[0]!r}; there are {', '.join(sorted(_LISTED))}")
    named: list[Method] = []
    for one in map(_LISTED.__getitem__, config.methods):
        named += one.methods(config) if isinstance(one, Group) else [one] if isinstance(one, Method) else []
    named += [variant(name, control) for name, control in config.variants.items()]
    names = [method.name for method in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise GraspError(f"two methods or variants are called {twice[0]!r}: give the variant another name")
    if not named:
        raise GraspError(f"{', '.join(config.methods)} is about methods: name at least one beside it")
    return named


def plan(x: Start) -> list[Stage]:
    """The stages of a whole run, each after those it needs; the last is the report."""
    config, methods = x.config, _possible(x, chosen(x.config))
    if config.final.refit:
        methods += _refits(x, methods)
    rows: list[Stage] = []
    measured: dict[str, Stage] = {}
    trained: dict[str, Stage] = {}
    tests: dict[str, list[Stage]] = {name: [] for name in config.target.tests}
    for method in methods:
        for draw in range(config.target.draws):
            drawn = replace(x, draw=draw)
            adapters = _adapters(drawn, method)
            if draw and not _is_drawn(adapters):
                break  # it has nothing to do with the target's training rows
            repeated = _repeated(x, adapters)
            for seed, made in adapters.items():
                row = evaluated(drawn, method, seed, made, repeated)
                rows.append(row)
                if isinstance(made, Stage):
                    trained.setdefault(method.name, made)
                for name, found in tests.items():
                    found.append(evaluated(drawn, method, seed, made, repeated, name))
                if config.evaluation.deployment and seed == config.seeds[0] and not draw:
                    measured[method.title] = deployed(x, method, seed, made, row)
    reference = next((method for method in methods if method.reference), methods[0])
    learned = {one.name: _learned(x, one) for one in methods if one.dev}
    given: dict[str, Any] = {
        "rows": tuple(rows),
        "tests": {name: tuple(found) for name, found in tests.items()},
        "sources": _trained_sources(x, rows),
        "reference": reference.name,
        "learned": {name: found for name, found in learned.items() if found},
        "curves": {one.name: taught for one in methods if one.dev and (taught := _those(x, one, CURVE))},
        "halved": {
            one.name: halved
            for one in methods
            if not one.refit_of and (halved := _those(x, one, HALVE) + _those(x, one, HALVE_FOLDS))
        },
        "searched": dev_scores(x, rows),
        "deployed": measured,
        "trained": trained,
        "control": config.control.model_dump(),
        "variants": {name: variant.model_dump() for name, variant in config.variants.items()},
        **{
            study.shown: study.stage(x.first) if name in config.methods else None
            for name, study in _STUDIES.items()
        },
    }
    return behind(Stage("report", REPORT, given, derived=True))


def _possible(x: Start, methods: list[Method]) -> list[Method]:
    """The methods; where the config says `all`, or nothing, without those that it has nothing to make of."""
    named = x.config.methods
    if not set(named) >= set(NAMES.all) and named != NAMES.default:
        return methods
    possible = []
    for method in methods:
        try:
            _adapter(x, method, x.config.seed)
            possible.append(method)
        except GraspError as error:
            logger.warning("left out: %s", error)
    return possible


def _refits(x: Start, methods: Sequence[Method]) -> list[Method]:
    """The methods once more, on all labelled rows; those that no such row is behind are left out."""
    again = [one for one in methods if one.dev and not one.control_of]
    found = [_refit(one) for one in again if refitted(x, made := _adapter(x, one, x.config.seed)) is not made]
    if not found:
        logger.warning("final.refit does nothing: no method here trains on the target's rows")
    return found


def _refit(method: Method) -> Method:
    return replace(
        method,
        name=f"{method.name}{REFIT}",
        title=f"{method.title}; on all labelled rows",
        adapter=lambda x, seed: refitted(x, method.adapter(x, seed)),
        whole=False,
        reference=False,
        dev=False,
        refit_of=method.name,
        corner=None,
    )


def _is_drawn(adapters: Mapping[int, Adapter]) -> bool:
    """Whether any of them, or what lies behind it, was given a draw of the training rows."""
    values = (value for stage in behind(*adapters.values()) for value in inside(stage.given))
    return any(isinstance(value, Rows) and value.draw > 0 for value in values)


def _adapters(x: Start, method: Method) -> dict[int, Adapter]:
    """Seed -> what makes the adapter that is evaluated."""
    first, *others = x.config.seeds
    made = _adapter(x, method, first)
    again = method.seeded or (x.repeats_adapters and any(s.work is TRAIN for s in behind(made)))
    return {first: made, **({seed: _adapter(x, method, seed) for seed in others} if again else {})}


def _repeated(x: Start, adapters: Mapping[int, Adapter]) -> str:
    """What is made anew with each seed."""
    if len(adapters) < 2:
        return ""
    return "adapters" if x.repeats_adapters else "final"


def _adapter(x: Start, method: Method, seed: int) -> Adapter:
    """What makes a method's adapter.

    Raises:
        GraspError: It cannot be made of what the config has.
    """
    try:
        made = method.adapter(x.repeated(seed), seed)
        return moved(made, x.drawn) if x.draw else made
    except GraspError as error:
        raise GraspError(f"the method {method.name}: {error}") from None


def _trained_sources(x: Start, rows: Sequence[Stage]) -> dict[str, Stage]:
    """The sources' adapters that the methods need, by label."""
    needed = {stage.name for stage in behind(*rows)}
    return {
        label: made
        for label, made in x.first.sources.items()
        if isinstance(made, Stage) and made.name in needed
    }


def _learned(x: Start, method: Method) -> tuple[tuple[Stage, Stage], ...]:
    """For each draw the learning run behind its adapter, if there is one, and the stage that p* is from."""
    found = []
    for draw in range(x.config.target.draws):
        made = _adapter(replace(x, draw=draw), method, x.config.seed)
        stages = {stage.work: stage for stage in behind(made)}
        if LEARN in stages:
            found.append((stages[LEARN], stages.get(SELECT, stages[LEARN])))
    return tuple(found)


def _those(x: Start, method: Method, work: Work) -> tuple[Stage, ...]:
    """For each draw the stage behind its adapter that does such work, if there is one."""
    found = []
    for draw in range(x.config.target.draws):
        made = behind(_adapter(replace(x, draw=draw), method, x.config.seed))
        found += [stage for stage in made if stage.work is work]
    return tuple(found)
