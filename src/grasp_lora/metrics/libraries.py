"""The metrics' libraries, imported when a metric first needs them."""

import importlib
from typing import Any

from grasp_lora.errors import GraspError

__all__ = ["library"]


def library(module: str) -> Any:
    """Import `module`, which the extra `metrics` installs.

    Raises:
        GraspError: The module, or one that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise GraspError(
            f"metrics: package {error.name!r} is missing. Install it: pip install 'grasp-lora[metrics]'"
        ) from error
