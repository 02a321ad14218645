"""Debian packages (.deb files) without Debian: an `ar` archive with two tar archives in it."""

import bz2
import gzip
import importlib
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from grasp_lora.errors import GraspError

__all__ = ["fields", "unpack"]

MAX_BYTES = 1 << 30
"""The largest tar archive that is read, decompressed; the handbook's has a tenth of it."""
MAX_CONTROL_BYTES = 1 << 20
FAULTS = (
    tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError,
    # What tarfile's own parsing of headers can end in.
    ValueError, LookupError, OverflowError, RecursionError,
)  # fmt: skip


def fields(deb: Path) -> dict[str, str]:
    """The fields of a .deb's control file, first lines only; `Package` and `Version` are among them."""
    with _tar(deb, "control.tar") as archive:
        text = ""
        for member in archive:
            if member.name.removeprefix("./") == "control" and (file := archive.extractfile(member)):
                text = file.read(MAX_CONTROL_BYTES).decode()
        lines = (line.partition(":") for line in text.splitlines() if not line.startswith((" ", "\t")))
        found = {name: value.strip() for name, _, value in lines}
        if not found.get("Package") or not found.get("Version"):
            raise ValueError("its control file does not name package and version")
    return found


def unpack(deb: Path, folder: Path) -> None:
    """Unpack a .deb's files into `folder`, running none of its scripts."""
    if not hasattr(tarfile, "data_filter"):
        raise GraspError(f"unpacking {deb} safely needs Python 3.11.4 or newer")
    with _tar(deb, "data.tar") as archive:
        for member in archive:
            if member.issparse():  # holes count for nothing in MAX_BYTES; no package has such files
                raise tarfile.ReadError(f"{member.name!r} is a sparse file")
            archive.extract(member, folder, filter="data")


@contextmanager
def _tar(deb: Path, kind: str) -> Iterator[tarfile.TarFile]:
    """The tar archive `kind` of a .deb; whatever is wrong with it is one error."""
    try:
        with deb.open("rb") as file:
            name, packed = _member(file, kind)
            with _decompressed(deb, name, packed) as plain:
                content = _Part(plain, MAX_BYTES, then=f"{name} has more than {MAX_BYTES >> 20} MiB")
                with tarfile.open(fileobj=content, mode="r|", tarinfo=_Header) as archive:
                    yield archive
                while content.read(1 << 20):  # to the end, where the compression's check sum is
                    pass
    except FAULTS as error:
        why = str(error) or type(error).__name__
        raise GraspError(
            f"{deb} cannot be unpacked as a .deb ({why}): download it again, or unpack it yourself "
            "(`ar x` it, then `tar xf` its data.tar.*) and give the folder instead"
        ) from None


def _member(file: BinaryIO, kind: str) -> tuple[str, "_Part"]:
    """Name and content of the first member of an ar archive that is called `kind` or `kind.SOMETHING`."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(8) != b"!<arch>\n":
        raise ValueError("it is not an ar archive")
    place = 8
    while place < end:
        file.seek(place)
        header = file.read(60)  # name 16, time 12, owner 6, group 6, mode 8, size 10, end 2
        size = header[48:58].strip()
        if header[58:] != b"`\n" or not size.isdigit():
            raise ValueError(f"there is no ar header at byte {place:,}")
        name = header[:16].decode("ascii").rstrip(" /")
        place += 60 + int(size)
        if place > end:
            raise EOFError(f"it is cut off: {name} ends at byte {place:,}, the file at {end:,}")
        if name == kind or name.startswith(f"{kind}."):
            return name, _Part(file, int(size))
        place += place % 2
    raise ValueError(f"there is no {kind} in it")


def _decompressed(deb: Path, name: str, packed: "_Part") -> Any:
    packing = name.partition(".tar")[2]
    if packing == ".zst":
        try:
            return importlib.import_module("compression.zstd").open(packed)
        except ImportError:
            raise GraspError(
                f"{deb} is compressed with zstd, which Python reads from 3.14 on: take the package from "
                "Debian, where it is compressed with xz, or unpack it yourself (`dpkg-deb --extract`) and "
                "give the folder instead"
            ) from None
    openers: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
    openers[""] = lambda file: file
    if packing not in openers:
        raise ValueError(f"{name} is compressed in an unknown way")
    return openers[packing](packed)


class _Part(io.RawIOBase):
    """The next `size` bytes of a file; after them comes its end, or the error `then`."""

    def __init__(self, file: Any, size: int, then: str = "") -> None:
        self.file, self.left, self.then = file, size, then

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.left and self.then:
            raise tarfile.ReadError(self.then)
        count: int = self.file.readinto(memoryview(buffer)[: self.left])
        self.left -= count
        return count


class _Header(tarfile.TarInfo):
    """A member's header. One that is broken is an error; tarfile takes it for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            # The zeros at the end. Its name is not in the type stubs.
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"a tar header is damaged: {error}") from None
