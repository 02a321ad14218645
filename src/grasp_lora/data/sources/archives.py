"""Files in a folder, in an archive, or in archives in a folder, read one after the other.

Nothing is unpacked to disk, so no member can land anywhere; an archive that tries is refused all the same.
"""

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, cast

from grasp_lora.errors import GraspError

__all__ = ["refuse_damage", "walk"]

TARS = (".tar", ".tar.bz2", ".tbz2", ".tar.gz", ".tgz", ".tar.xz")
DAMAGE = (
    EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile,
    NotImplementedError,  # a way to pack that zipfile does not know
)  # fmt: skip

FREE, RATIO = 256 << 20, 100
"""Bytes that any file on disk may hold packed, and how many times its size it may hold beyond that: text
packs to a tenth, and a bomb to a thousandth."""

Wanted = Callable[[str], bool]


def walk(source: Path, wanted: Wanted) -> Iterator[tuple[Path, str, BinaryIO]]:
    """(file on disk, name, open file) of the wanted files, each open until the next is asked for.

    Args:
        source: A folder, an archive (.zip, .tar.*) or a single file.
        wanted: Told a name, says whether to open it. Names use slashes; they start with the archive's own
            name where there is one and have no .gz at the end, since that is decompressed.
    """
    if not source.exists():
        raise GraspError(f"{source} does not exist: give the folder, archive or file to read with --from")
    if source.is_file():
        files, root = [source], source.parent
    else:
        files, root = _files(source), source
    for path in files:
        name = path.relative_to(root).as_posix()
        room = _Room(path, max(FREE, RATIO * path.stat().st_size))
        if name.endswith(".zip"):
            yield from ((path, *found) for found in _zip(path, name, wanted, room))
        elif name.endswith(TARS):
            yield from ((path, *found) for found in _tar(path, name, wanted, room))
        elif wanted(name.removesuffix(".gz")):
            with path.open("rb") as file:
                yield from ((path, *found) for found in _opened(name, file, room))


def _files(folder: Path) -> list[Path]:
    """All files but those of folders that were prepared, in case these lie beside their source."""
    made = {path.parent for path in folder.rglob("manifest.json") if (path.parent / "task.yaml").is_file()}
    return sorted(path for path in folder.rglob("*") if path.is_file() and made.isdisjoint(path.parents))


@contextmanager
def refuse_damage(source: str) -> Iterator[None]:
    """Say in one sentence that what is read inside is cut off or damaged."""
    try:
        yield
    except DAMAGE as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise GraspError(
            f"{source} has an archive that is cut off or damaged ({why}): download it again"
        ) from None
    except OSError as error:
        raise GraspError(
            f"{source} cannot be read ({error}): download it again or check its rights"
        ) from None


def _zip(path: Path, name: str, wanted: Wanted, room: "_Room") -> Iterator[tuple[str, BinaryIO]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            _check_inside(path, member.filename)
        for member in archive.infolist():
            inside = f"{name}/{member.filename}"
            if not member.is_dir() and wanted(inside.removesuffix(".gz")):
                with archive.open(member) as file:
                    yield from _opened(inside, cast(BinaryIO, file), room)


def _tar(path: Path, name: str, wanted: Wanted, room: "_Room") -> Iterator[tuple[str, BinaryIO]]:
    with tarfile.open(path) as archive:
        for member in archive:  # in the archive's order: going back would decompress it from the start
            _check_inside(path, member.name)
            inside = f"{name}/{member.name.removeprefix('./')}"
            if not wanted(inside.removesuffix(".gz")) or member.isdir():
                continue
            if not member.isfile():
                raise GraspError(f"{path}: {member.name!r} is a link or a device, not a file")
            if file := archive.extractfile(member):
                yield from _opened(inside, cast(BinaryIO, file), room)


def _opened(name: str, file: BinaryIO, room: "_Room") -> Iterator[tuple[str, BinaryIO]]:
    if name.endswith(".gz"):
        with gzip.open(file) as plain:
            yield name.removesuffix(".gz"), _counted(plain, room)
    else:
        yield name, _counted(file, room)


class _Room:
    """How many bytes may still come out of a file on disk."""

    def __init__(self, path: Path, left: int) -> None:
        self.path, self.left = path, left

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise GraspError(
                f"{self.path} holds more than {RATIO} times its size: no text packs so well. If you know "
                "what it is, unpack it yourself and give the folder"
            )


class _Counted(io.RawIOBase):
    """A file, of which no more is read than there is room for."""

    def __init__(self, file: Any, room: _Room) -> None:
        self.file, self.room = file, room

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self.file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        found = self.file.read(len(buffer))
        self.room.take(len(found))
        buffer[: len(found)] = found
        return len(found)


def _counted(file: Any, room: _Room) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Counted(file, room), 1 << 16))


def _check_inside(path: Path, member: str) -> None:
    """An archive with a member outside its own folder was not made by the data's authors."""
    posix, windows = PurePosixPath(member), PureWindowsPath(member)
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
        raise GraspError(
            f"{path} has a file that leaves the archive's folder ({member!r}): do not unpack it, and get the "
            "archive again from its authors"
        )
