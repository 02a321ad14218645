"""Where things that can be made again are kept, and what makes files last."""

import hashlib
import os
from pathlib import Path

__all__ = ["cache_dir", "digest", "sync", "write_whole"]


def cache_dir() -> Path:
    """`$GRASP_CACHE`, or `grasp-lora` in the user's cache folder (XDG); it is created when missing."""
    if chosen := os.environ.get("GRASP_CACHE"):
        folder = Path(chosen)
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grasp-lora"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole, and on the disk, or as it was before."""
    sibling = path.with_name(path.name + ".partial")
    with sibling.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sibling.replace(path)


def sync(folder: Path, *, deep: bool = True) -> None:
    """Have the disk hold a folder, and all that is in it, before anything else happens."""
    for path in [*(folder.rglob("*") if deep else ()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
