"""What a config is made of: frozen nodes that refuse unknown keys, and the kinds of values in them.

Each group of settings is declared beside the code that it sets; `config.tree` puts the groups together.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "FREE", "LATER", "Count", "FolderName", "NotNegative", "Positive", "Ratio", "Seed", "Settings",
    "free_settings", "later_settings",
]  # fmt: skip

LATER = "a setting that finished runs may not know"
"""Annotates one that came after runs were made, or is in the metadata of a dataclass's field: at its default
it is no part of what a stage was given."""

FREE = "a setting that changes no result"
"""Annotates one that is never part of what a stage was given."""

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


# What a run's folders are called while they are made or moved aside, or a Trainer: `grasp clean` removes
# folders of these names.
_TAKEN = re.compile(r".*\.partial|.*\.replaced-\d+|checkpoint-\d+|tensorboard")


def _folder_name(value: str) -> str:
    if not re.fullmatch(r"[\w-][\w.-]*", value):
        raise ValueError("it names a folder: letters, digits, _, - and . may be in it, and no . at its start")
    if _TAKEN.fullmatch(value):
        raise ValueError(f"{value!r} is what a run calls folders that may be removed: give another name")
    return value


FolderName = Annotated[str, AfterValidator(_folder_name)]


class Settings(BaseModel):
    """A group of settings. The string below a field is its meaning, which `grasp config --explain` shows."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True
    )

    def is_unset(self, name: str) -> bool:
        """Whether a setting is `LATER`, and has its default."""
        later = later_settings(type(self))
        return name in later and bool(getattr(self, name) == later[name])


@cache
def free_settings(kind: type) -> Collection[str]:
    """The settings of a group that are `FREE`."""
    known = kind.model_fields.items() if issubclass(kind, BaseModel) else ()
    return {name for name, one in known if FREE in one.metadata}


@cache
def later_settings(kind: type) -> Mapping[str, Any]:
    """The settings of a group, or the fields of a dataclass, that are `LATER`, and their defaults."""
    if issubclass(kind, BaseModel):
        return {name: one.default for name, one in kind.model_fields.items() if LATER in one.metadata}
    known = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return {one.name: one.default for one in known if LATER in one.metadata}
