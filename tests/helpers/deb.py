"""Small .deb files, made without Debian's tools."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

__all__ = ["COMPRESS", "Entry", "ar", "control", "deb", "entry", "tar"]

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Entry:
    """A tar member and its content."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info, content


def tar(entries: Iterable[Entry]) -> bytes:
    """A tar archive of these members in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def ar(members: Mapping[str, bytes]) -> bytes:
    """An ar archive; each member begins at an even byte."""
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def control(package: str) -> bytes:
    """The control file of a package."""
    return (
        f"Package: {package}\nVersion: 1:2.3\nArchitecture: all\nMaintainer: A <a@example.org>\n"
        "Description: a book\n with: a colon in its long description\n"
    ).encode()


def deb(
    path: Path, content: bytes, package: str = "debian-handbook", packing: str = ".xz", **more: bytes
) -> Path:
    """Write a .deb.

    Args:
        path: Where to.
        content: The tar archive of its files, not compressed.
        package: Its name.
        packing: The end of the names of its two archives, a key of `COMPRESS`.
        more: Members that replace those of the same name, `control` and `data`.
    """
    pack = COMPRESS[packing]
    parts = {"control": pack(tar([entry("./control", control(package))])), "data": pack(content)} | more
    members = {f"{name}.tar{packing}": part for name, part in parts.items()}
    path.write_bytes(ar({"debian-binary": b"2.0\n", **members}))
    return path
