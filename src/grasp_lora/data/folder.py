"""Prepared folders: `task.yaml`, `manifest.json` and `LANGUAGE/SPLIT.jsonl`, written whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import Split, Task

__all__ = ["Rows", "is_prepared", "read_manifest", "sha256", "write_prepared"]

Rows = Mapping[str, Mapping[Split, Sequence[Mapping[str, str | Sequence[str]]]]]
"""Language -> split -> rows of texts, and of lists of texts for references."""


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A prepared folder's manifest; None where there is none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def is_prepared(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether the folder was prepared from these inputs (those given; there may be more) and is unchanged."""
    manifest = read_manifest(folder) or {}
    recorded, files = manifest.get("inputs"), manifest.get("files")
    if (
        not isinstance(recorded, dict)
        or not isinstance(files, dict)
        or not inputs.items() <= recorded.items()
    ):
        return False
    return all(
        (folder / name).is_file() and sha256(folder / name) == digest for name, digest in files.items()
    )


def write_prepared(
    folder: Path, task: Mapping[str, Any], rows: Rows, manifest: Mapping[str, Any], *, replace: bool = False
) -> None:
    """Write a prepared folder, or leave everything as it was.

    Args:
        folder: Where to; it must be missing or empty, unless `replace` is given.
        task: The fields of `task.yaml` but `languages`, which is made from `rows`.
        rows: What goes into the splits, in this order.
        manifest: `inputs` and whatever else is known; counts and hashes of the files are added.
        replace: Whether a folder that is there is replaced. For folders that nobody but us writes to.
    """
    files = {
        language: {split: f"{language}/{split}.jsonl" for split in splits}
        for language, splits in rows.items()
    }
    values = {**task, "languages": files}
    Task.model_validate(values)
    counts = {
        language: {split: len(lines) for split, lines in splits.items()} for language, splits in rows.items()
    }
    with _new_folder(folder, replace=replace) as new:
        for language, splits in rows.items():
            for split, lines in splits.items():
                texts = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                _write(new / files[language][split], texts)
        text = yaml.dump(values, Dumper=_Readable, allow_unicode=True, sort_keys=False, width=100)
        _write(new / "task.yaml", [text])
        hashes = {path.relative_to(new).as_posix(): sha256(path) for path in sorted(new.rglob("*.*"))}
        full = {**manifest, "counts": counts, "files": hashes}
        _write(new / "manifest.json", [json.dumps(full, ensure_ascii=False, indent=2) + "\n"])


class _Readable(yaml.SafeDumper):
    """Writes texts of several lines (the prompts) as blocks, as a person would."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _block)


@contextmanager
def _new_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A temporary sibling that takes the folder's place if nothing goes wrong inside the `with`."""
    folder = folder.absolute()
    if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GraspError(
            f"{folder} is already there, with other contents: remove it, or choose another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        yield new
        old = Path(temporary) / "old"
        if replace and folder.exists():
            folder.rename(old)
        try:
            new.replace(folder)
        except OSError as error:
            if old.exists():
                old.rename(folder)
            raise GraspError(f"{folder} could not be written: {error}") from None


def _write(path: Path, texts: Iterable[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(texts)
        file.flush()
        os.fsync(file.fileno())
