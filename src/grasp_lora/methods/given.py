"""Adapters that the config names: folders, or names on the model hub."""

from pathlib import Path

from grasp_lora.errors import GraspError
from grasp_lora.merging.hub import find_adapter, is_hub_name

__all__ = ["found", "given_adapter"]


def found(key: str, adapter: str | Path) -> Path:
    """The folder of an adapter that the config names.

    Raises:
        GraspError: There is none; the message begins with the key.
    """
    try:
        return find_adapter(adapter)
    except GraspError as error:
        raise GraspError(f"{key}: {error}") from None


def given_adapter(key: str, adapter: str | Path) -> Path:
    """The same for a plan: whether a folder is there is asked before a run."""
    return found(key, adapter) if is_hub_name(adapter) else Path(adapter).expanduser()
