"""What a config is made of: frozen nodes that refuse unknown keys, and the kinds of values in them.

Each group of settings is declared beside the code that it sets; `config.tree` puts the groups together.
"""

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = ["Count", "FolderName", "NotNegative", "Positive", "Ratio", "Seed", "Settings"]

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
    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that runs were made without: at their defaults they change no stage's key."""

    def told(self) -> dict[str, Any]:
        """What a stage's key is made of: the fields by name, without `later` ones at their defaults."""
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if not (name in self.later and getattr(self, name) == field.default)
        }
