"""What a config is made of: frozen nodes that refuse unknown keys, and the kinds of values in them.

Each group of settings is declared beside the code that it sets; `config.tree` puts the groups together.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = ["LATER", "Count", "FolderName", "NotNegative", "Positive", "Ratio", "Seed", "Settings"]

LATER = "a setting that finished runs may not know"
"""Annotates one that came after runs were made: at its default it is no part of what a stage was given."""

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
        field = type(self).model_fields[name]
        return LATER in field.metadata and bool(getattr(self, name) == field.default)
