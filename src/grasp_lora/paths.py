"""Where things that can be made again are kept."""

import os
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """`$GRASP_CACHE`, or `grasp-lora` in the user's cache folder (XDG); it is created when missing."""
    if chosen := os.environ.get("GRASP_CACHE"):
        folder = Path(chosen)
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grasp-lora"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
