"""A stage of a run: the name of its folder, its work, and all that the work may read.

What a stage is given says everything else about it: which stages it needs, in what order they run, what has
changed since it was done, which rows lie behind a result.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from grasp_lora.errors import GraspError
from grasp_lora.settings import free_settings, later_settings

if TYPE_CHECKING:
    from grasp_lora.workspace.directory import RunDirectory

__all__ = ["Input", "Stage", "Work", "behind", "fingerprint", "flat", "inside", "mapped", "resolve"]


ORDER = "(order)"


def _nothing(resources: Any, **given: Any) -> None:
    """Nothing to check before a run."""


def _untold(folder: Any, **given: Any) -> str:
    """Nothing to say on a card."""
    return ""


def _no_passes(**given: Any) -> int:
    """No model works."""
    return 0


@dataclass(frozen=True, slots=True)
class Work:
    """What makes a stage's files.

    Attributes:
        run: `run(resources, folder, **given)` writes them into `folder`. Whatever is given arrives resolved:
            a stage as its folder, rows as examples.
        ready: `ready(resources, **given)` raises, before anything is trained, what would stop `run` later.
            Stages arrive as folders that need not be there yet.
        passes: `passes(**given)`, the most example passes that `run` makes, forward and backward.
        resumes: Whether it goes on from what it left in the folder when it was ended; else that is empty.
        about: `about(folder, **given)`, what an adapter's card says of it once `folder` has its files; given
            as the stage has it, not resolved.
    """

    run: Callable[..., None]
    ready: Callable[..., None] = _nothing
    passes: Callable[..., int] = _no_passes
    about: Callable[..., str] = _untold
    resumes: bool = False

    @property
    def name(self) -> str:
        """Its own name, which two stages that do the same thing share."""
        return f"{self.run.__module__}.{self.run.__qualname__}"


@dataclass(frozen=True, eq=False)
class Stage:
    """One folder of the run directory.

    Attributes:
        name: Its path below the run's folder, such as "final/seed42".
        given: The work's arguments: numbers, texts, settings, paths of adapters, `Input`s, other stages, and
            mappings, tuples and dataclasses of these. The work reads nothing else.
        counted: Whether it is part of a method's own cost, or shared by all.
        derived: It only shows what others found, so it is made again without being asked twice.
    """

    name: str
    work: Work
    given: Mapping[str, Any]
    counted: bool = True
    derived: bool = False

    @cached_property
    def inputs(self) -> tuple["Input", ...]:
        """The inputs that it was given."""
        return tuple(value for value in inside(self.given) if isinstance(value, Input))

    @cached_property
    def needs(self) -> tuple["Stage", ...]:
        """The stages that it was given, each once."""
        found = {value.name: value for value in inside(self.given) if isinstance(value, Stage)}
        return tuple(found.values())


class Input(ABC):
    """Something given that stands for more than itself, such as rows of a file."""

    @abstractmethod
    def fingerprint(self, run: "RunDirectory") -> Any:
        """What of it a result depends on, as JSON."""

    @abstractmethod
    def resolve(self, run: "RunDirectory") -> Any:
        """What the work gets in its place."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that it reads."""
        return ()


def inside(value: Any) -> Iterator[Any]:
    """Everything that a stage's `given` holds; neither a stage nor a group of settings is entered."""
    yield value
    if isinstance(value, _LEAVES):
        return
    for part in _parts(value).values():
        yield from inside(part)


_PLAIN = (str, int, float, type(None))  # plans hold millions of these, and nothing is quicker to tell
_LEAVES = (*_PLAIN, Path, Stage, BaseModel)
_SETTLED = (*_PLAIN, BaseModel)  # in which no stage or input is


def behind(*values: Any) -> list[Stage]:
    """The stages in the values and all that they need, each once and after those it needs.

    Raises:
        GraspError: Two stages of one name would not make the same.
    """
    found: dict[str, Stage] = {}
    seen: set[int] = set()

    def visit(value: Any) -> None:
        for stage in inside(value):
            if not isinstance(stage, Stage) or id(stage) in seen:
                continue
            seen.add(id(stage))
            for need in stage.needs:
                visit(need)
            same = found.setdefault(stage.name, stage)
            if same is not stage and not (same.work == stage.work and _alike(same.given, stage.given)):
                raise GraspError(
                    f"two stages would be called {stage.name}: give what they are of another name"
                )

    for value in values:
        visit(value)
    return list(found.values())


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are equal; stages in them by their names, since each is looked at itself."""
    if one is other:
        return True
    if isinstance(one, _PLAIN):
        return type(one) is type(other) and bool(one == other)
    if isinstance(one, Stage) and isinstance(other, Stage):
        return one.name == other.name
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(_alike(one[key], other[key]) for key in one)
    if type(one) is not type(other):
        return False
    if any(isinstance(value, Stage) for value in inside(one)):
        return _alike(_parts(one), _parts(other))
    return bool(one == other)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with each stage and each input in it as `change` makes it."""
    if isinstance(value, _SETTLED):
        return value
    if isinstance(value, Stage | Input):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(part, change) for key, part in value.items()}
    if isinstance(value, tuple):
        return type(value)(mapped(part, change) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{name: mapped(part, change) for name, part in _parts(value).items()}
        )
    return value


def resolve(value: Any, run: "RunDirectory") -> Any:
    """The value with stages as their folders and inputs as what they stand for."""
    return mapped(value, lambda one: run.path(one.name) if isinstance(one, Stage) else one.resolve(run))


def fingerprint(value: Any, run: "RunDirectory") -> Any:
    """What of the value a result depends on, as JSON; an adapter's folder counts by what is in it."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Stage):
        return run.results(value.name)
    if isinstance(value, Input):
        return value.fingerprint(run)
    if isinstance(value, Path):
        return run.resources.adapter_digest(value)
    if isinstance(value, tuple):
        return [fingerprint(part, run) for part in value]
    if isinstance(value, BaseModel) and not _parts(value):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):  # its order may matter, as that of adapters that are merged
        found = {str(key): fingerprint(part, run) for key, part in value.items()}
        return found | ({ORDER: list(found)} if len(found) > 1 else {})
    if parts := _parts(value):
        kind: type = type(value)
        later, free = later_settings(kind), free_settings(kind)
        return {
            str(key): fingerprint(part, run)
            for key, part in parts.items()
            if key not in free and (key not in later or part != later[key])
        }
    return value


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of dotted keys, as a message names them: `{"training.epochs": 1}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        )
    return found


def _parts(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, Input):
        return dict(enumerate(value.stages))
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple):
        return dict(enumerate(value))
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {}
