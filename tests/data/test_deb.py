"""Debian packages read by Python alone, sound ones and all kinds of broken ones."""

import importlib.util
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.deb import COMPRESS, Entry, ar, control, deb, entry, tar

from grasp_lora.data.handbook.deb import fields, unpack
from grasp_lora.errors import GraspError

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here")

FILES = {"usr/share/doc/book/page.html": b"<p>page</p>", "usr/share/doc/book/empty": b"", "a/b": b"x" * 2000}
LINKED = [
    entry("./a/", kind=tarfile.DIRTYPE),
    *(entry(f"./{name}", content) for name, content in FILES.items()),
    entry("./a/hard", kind=tarfile.LNKTYPE, link="./a/b"),
    entry("./a/soft", kind=tarfile.SYMTYPE, link="../usr/share/doc/book/page.html"),
]
CONTENTS = {**FILES, "a/hard": FILES["a/b"], "a/soft": FILES["usr/share/doc/book/page.html"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sound(packing: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return deb(Path(folder) / "x.deb", tar(LINKED), packing=packing).read_bytes()


SOUND = {packing: sound(packing) for packing in COMPRESS}
XZ, PLAIN, GZ = SOUND[".xz"], SOUND[""], SOUND[".gz"].rstrip(b"\n")


@pytest.mark.parametrize("packing", COMPRESS)
def test_files_and_links_of_every_compression(tmp_path: Path, packing: str) -> None:
    path = deb(tmp_path / "x.deb", tar(LINKED), packing=packing)
    found = fields(path)
    assert (found["Package"], found["Version"], found["Description"]) == (
        "debian-handbook", "1:2.3", "a book",
    )  # fmt: skip
    unpack(path, tmp_path / "out")
    assert contents(tmp_path / "out") == CONTENTS
    assert (tmp_path / "out/a/hard").samefile(tmp_path / "out/a/b")


@needs_dpkg
@pytest.mark.parametrize("compression", ["xz", "gzip", "none"])
def test_packages_of_dpkg_deb(tmp_path: Path, compression: str) -> None:
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_bytes(control("book"))
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "a/hard").hardlink_to(root / "a/b")
    (root / "a/soft").symlink_to("../usr/share/doc/book/page.html")
    path = tmp_path / "x.deb"
    command = ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", root, path]
    subprocess.run(command, check=True, capture_output=True)
    assert fields(path)["Package"] == "book"
    unpack(path, tmp_path / "out")
    subprocess.run(["dpkg-deb", "--extract", path, tmp_path / "theirs"], check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "theirs") == CONTENTS


@needs_dpkg
def test_dpkg_deb_reads_ours(tmp_path: Path) -> None:
    path = deb(tmp_path / "x.deb", tar(LINKED))
    subprocess.run(["dpkg-deb", "--extract", path, tmp_path / "theirs"], check=True)
    assert contents(tmp_path / "theirs") == CONTENTS


def test_zstd_where_python_has_it(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    if importlib.util.find_spec("compression") is None:
        path.write_bytes(ar({"debian-binary": b"2.0\n", "control.tar.zst": b"", "data.tar.zst": b""}))
        for read in (fields, lambda path: unpack(path, tmp_path / "out")):
            with pytest.raises(
                GraspError, match=r"x.deb is compressed with zstd, which Python reads from 3.14"
            ):
                read(path)
        return
    from compression import zstd  # type: ignore[import-not-found]

    data = {"control": [entry("./control", control("book"))], "data": LINKED}
    members = {f"{name}.tar.zst": zstd.compress(tar(entries)) for name, entries in data.items()}
    path.write_bytes(ar({"debian-binary": b"2.0\n", **members}))
    assert fields(path)["Package"] == "book"
    unpack(path, tmp_path / "out")
    assert contents(tmp_path / "out") == CONTENTS


BROKEN = {
    "no ar": (b"PK\3\4 something else", "it is not an ar archive"),
    "empty": (b"", "it is not an ar archive"),
    "cut in its content": (XZ[:-30], r"it is cut off: data.tar.xz ends at byte"),
    "cut in a header": (XZ[: XZ.index(b"data.tar") + 20], r"there is no ar header at byte"),
    "a size too large": (XZ.replace(b"4         `\n", b"9999999999`\n", 1), "it is cut off: debian-binary"),
    "a size too small": (XZ.replace(b"4         `\n", b"2         `\n", 1), "no ar header at byte 70"),
    "a size that is none": (XZ.replace(b"4         `\n", b"-4        `\n", 1), "no ar header at byte 8[)]"),
    "no data": (XZ.replace(b"data.tar", b"dada.tar", 1), "there is no data.tar in it"),
    "unknown compression": (XZ.replace(b"data.tar.xz", b"data.tar.lz", 1), "data.tar.lz is compressed in an"),
    "another compression": (XZ.replace(b"data.tar.xz ", b"data.tar.bz2", 1), "Invalid data stream"),
    "a damaged tar header": (
        PLAIN.replace(b"./usr/share/doc/book/empty", b"./usr/share/doc/book/EMPTY", 1),
        "a tar header is damaged: bad checksum",
    ),
    "a wrong check sum": (GZ[:-8] + b"sums" + GZ[-4:], "CRC check failed"),
    "no end of the tar": (PLAIN[: PLAIN.index(b"./a/soft")], "it is cut off"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_package_is_one_error(tmp_path: Path, case: str) -> None:
    content, said = BROKEN[case]
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(GraspError, match=rf"x\.deb cannot be unpacked as a \.deb \(.*{said}"):
        unpack(tmp_path / "x.deb", tmp_path / "out")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"text", "a tar header is damaged: truncated header"),
        (b"text" * 1000, "a tar header is damaged: invalid header"),
        (b"", "a tar header is damaged: empty header"),
        (tar([entry("../x", b"x")]), "outside the destination"),
        (tar([entry("a", kind=tarfile.SYMTYPE, link="/etc")]), "absolute path"),
        (tar([entry("a", kind=tarfile.SYMTYPE, link="..")]), "outside the destination"),
        (tar([entry("a", kind=tarfile.LNKTYPE, link="../x.deb")]), "outside the destination"),
        (tar([entry("a", kind=tarfile.LNKTYPE, link="b")]), "seeking backwards|not found"),
        (tar([entry("a", kind=tarfile.CHRTYPE)]), "special file"),
        (tar([entry("a", b"x" * 99)])[:512], "unexpected end of data"),
    ],
)
@pytest.mark.parametrize("packing", [".gz", ".xz"])
def test_a_broken_tar_is_one_error(tmp_path: Path, data: bytes, said: str, packing: str) -> None:
    deb(tmp_path / "x.deb", data, packing=packing)
    with pytest.raises(GraspError, match=rf"x\.deb cannot be unpacked as a \.deb \(.*({said})"):
        unpack(tmp_path / "x.deb", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} <= {"x.deb", "out"}
    assert contents(tmp_path / "out").keys() <= {"a"}  # the beginning of one that is cut off


@pytest.mark.parametrize(
    "data",
    [
        tar([entry("zeros", bytes(3 << 20))]),
        tar([entry("a", b"a")]) + bytes(3 << 20),
        tar([entry("name" * (1 << 19), b"")]),
    ],
)
@pytest.mark.hostile("archive bombs", "stopped at a limit")
def test_a_bomb_is_not_unpacked(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grasp_lora.data.handbook.deb.MAX_BYTES", 2 << 20)
    deb(tmp_path / "x.deb", data)
    assert (tmp_path / "x.deb").stat().st_size < 10_000
    with pytest.raises(GraspError, match=r"data.tar.xz has more than 2 MiB"):
        unpack(tmp_path / "x.deb", tmp_path / "out")
    assert sum(map(len, contents(tmp_path / "out").values())) <= 2 << 20


@pytest.mark.hostile("archive bombs", "stopped at a limit")
def test_a_sparse_file_is_not_unpacked(tmp_path: Path) -> None:
    """Its holes could be any number of terabytes."""
    content = tar([entry("a", b"x", kind=tarfile.GNUTYPE_SPARSE)])
    with pytest.raises(GraspError, match="'a' is a sparse file"):
        unpack(deb(tmp_path / "x.deb", content), tmp_path / "out")


@pytest.mark.parametrize("text", [b"", b"Package: x\n", b"Version: 1\nMore: y\n", b"Package: x\nVersion:\n"])
def test_a_package_says_what_it_is(tmp_path: Path, text: bytes) -> None:
    path = deb(
        tmp_path / "x.deb", tar([]), packing=".gz", control=COMPRESS[".gz"](tar([entry("control", text)]))
    )
    with pytest.raises(GraspError, match="its control file does not name package and version"):
        fields(path)


def outcome(content: bytes) -> dict[str, bytes] | None:
    """What comes of a .deb: its files, or None for a GraspError; and nothing beside them is touched."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "outside").mkdir()
        (root / "outside" / "file").write_bytes(b"mine")
        (root / "x.deb").write_bytes(content)
        before = contents(root)
        (root / "scratch").mkdir()
        try:
            fields(root / "x.deb")
            unpack(root / "x.deb", root / "scratch" / "unpacked")
            found = contents(root / "scratch" / "unpacked")
        except GraspError:
            found = None
        shutil.rmtree(root / "scratch")
        assert contents(root) == before
        assert {path.name for path in root.iterdir()} == {"outside", "x.deb"}
        return found


@given(st.sampled_from(sorted(SOUND)), st.data())
def test_a_part_of_a_package_is_an_error(packing: str, data: st.DataObject) -> None:
    whole = SOUND[packing]
    assert outcome(whole[: data.draw(st.integers(0, len(whole.rstrip(b"\n")) - 1))]) is None


@given(
    st.sampled_from(sorted(SOUND)),
    st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_changed_package_is_an_error_or_the_same(packing: str, changes: list[tuple[int, int]]) -> None:
    content = bytearray(SOUND[packing])
    for place, value in changes:
        content[place % len(content)] = value
    found = outcome(bytes(content))
    if packing:  # a tar archive alone has no check sum of what is in its files
        assert found in (None, CONTENTS)


NAMES = st.sampled_from(
    ["a", "b", "a/b", "./a/", "../outside/file", "/outside", "..", ".", "a/../../outside", "b/x"]
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE]
)
ENTRIES = st.builds(
    lambda name, kind, link: entry(name, b"x" * (kind == tarfile.REGTYPE), kind, link), NAMES, KINDS, NAMES
)


@given(st.lists(ENTRIES, min_size=1, max_size=5))
@pytest.mark.hostile("path traversal in members of archives", "refused, nothing is written outside")
def test_no_entry_reaches_outside(entries: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = deb(Path(folder) / "x.deb", tar(entries), packing="").read_bytes()
    outcome(content)
