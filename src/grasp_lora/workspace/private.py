"""What must not be published: paths of a machine, and tokens."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from grasp_lora.errors import GraspError

__all__ = ["private_things", "text_of"]

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_PATH = re.compile(
    r"\bfile:/+[^\s\"'<>)]+"
    r"|(?<![\w:/])//[\w.-]+/[\w.-]+"  # a share; https://host/path has a colon before it
    r"|(?<![\w.~-])/(?P<first>[\w.@+-]+)(?:/[\w.@+-]+)+"
    r"|\b[A-Za-z]:(?:\\\\?|/)\w+"
    r"|(?<![\w\\])\\\\[\w-][\w.$-]*\\\w+"
    r"|(?<![\w/])~/\.?\w+"
)
_ROOTS = {
    "afs", "content", "data", "export", "gpfs", "group", "groups", "home", "kaggle", "lustre", "media", "mnt",
    "net", "nfs", "opt", "private", "proj", "project", "projects", "root", "scratch", "shared", "srv",
    "storage", "tmp", "users", "usr", "var", "vol", "volume", "volumes", "work", "workspace",
}  # fmt: skip
"""Where people's files are, on whatever machine; those of this one count, too."""


def private_things(text: str) -> list[str]:
    """Absolute paths and tokens in a text, the latter not whole."""
    roots = _ROOTS | {name.lower() for name in os.listdir("/")}
    paths = [m[0] for m in _PATH.finditer(text) if m["first"] is None or m["first"].lower() in roots]
    tokens = ["a token of the model hub (hf_...)"] if _TOKEN.search(text) else []
    return [*tokens, *(f"the path {path}" for path in paths)]


def text_of(path: Path) -> str:
    """What is text in a file: of JSON its strings, as they are meant; of tensors their header's metadata.

    Raises:
        GraspError: It is damaged.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as tensors:
                return "\n".join(_strings([tensors.metadata() or {}, list(tensors.keys())]))
        text = path.read_text(encoding="utf-8")
        return "\n".join(_strings(json.loads(text))) if path.suffix == ".json" else text
    except (SafetensorError, OSError, ValueError) as error:
        raise GraspError(f"{path.name} is damaged and cannot be published: {error}") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings([*value.keys(), *value.values()])
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
