"""Where things that can be made again are kept, and what makes files last."""

import os
from pathlib import Path

__all__ = ["cache_dir", "sync"]


def cache_dir() -> Path:
    """`$GRASP_CACHE`, or `grasp-lora` in the user's cache folder (XDG); it is created when missing."""
    if chosen := os.environ.get("GRASP_CACHE"):
        folder = Path(chosen)
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grasp-lora"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sync(folder: Path, *, deep: bool = True) -> None:
    """Have the disk hold a folder, and all that is in it, before anything else happens."""
    for path in [*(folder.rglob("*") if deep else ()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
