"""The handbook's preparation, on small books of the same form; none of the real one's text is here."""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.book import make_book, page
from tests.helpers.deb import control, deb, entry, tar

from grasp_lora.data.find import find_folder, find_task
from grasp_lora.data.handbook import book as handbook
from grasp_lora.data.handbook.book import PINNED, prepare_handbook
from grasp_lora.data.handbook.deb import unpack
from grasp_lora.data.handbook.debian import Pinned, download
from grasp_lora.data.handbook.pages import Section, read_sections
from grasp_lora.data.handbook.roles import HELD_OUT, Sizes, assign_roles
from grasp_lora.data.handbook.rows import split_sections
from grasp_lora.data.scripts import script_share
from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import check_disjoint, load_task

BOOK = {"en-US": 0, "ar-MA": 2, "zh-CN": 4, "ja-JP": 5}
TARGETS = ("ar", "zh", "ja")
HTML = Path("usr/share/doc/debian-handbook/html")
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here")
needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt is not here")

Splits = dict[str, dict[str, list[dict[str, str]]]]


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_book(tmp_path_factory.mktemp("book") / HTML, BOOK)


@pytest.fixture(scope="session")
def prepared(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_handbook(tmp_path_factory.mktemp("prepared") / "out", book)


def read(folder: Path) -> Splits:
    return {
        language.name: {
            file.stem: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            for file in language.glob("*.jsonl")
        }
        for language in folder.iterdir()
        if language.is_dir()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


# Pages


def only(tmp_path: Path, block: str) -> list[Section]:
    (tmp_path / "some.html").write_text(page(block), encoding="utf-8")
    return list(read_sections(tmp_path).values())


@pytest.mark.parametrize(
    ("kind", "heading", "title"),
    [
        ("chapter", "Chapter 6.\u00a0The Tools", "The Tools"),
        ("chapter", "فصل 6.\u00a0الأدوات", "الأدوات"),
        ("chapter", "第\u00a06\u00a0章\u00a0工具", "工具"),
        ("chapter", "第 6 章 ツール", "ツール"),
        ("chapter", "Phụ lục A. Công cụ", "Công cụ"),
        ("appendix", "付録 A 派生", "派生"),
        ("appendix", "Appendix B.\u00a0Tools", "Tools"),
        ("preface", "Preface", "Preface"),
        ("section", "6.2.10.\u00a0<code>apt</code> and \u200faptitude", "apt and aptitude"),
        ("section", "B.4. 3.5 inch disks", "3.5 inch disks"),
        ("section", "No number", "No number"),
    ],
)
def test_titles_lose_their_number(tmp_path: Path, kind: str, heading: str, title: str) -> None:
    [section] = only(
        tmp_path,
        f'<div class="{kind}"><div class="titlepage"><h1 class="title"><a id="x"></a>{heading}</h1></div>'
        '<div class="para">Text.</div></div>',
    )
    assert (section.id, section.title) == ("x", title)


@pytest.mark.parametrize(
    ("heading", "title"),
    [
        (
            '<span class="emphasis"><em>GOING FURTHER</em></span> Using <code>LVM</code> well',
            "Using LVM well",
        ),
        ('<span class="emphasis"><em>进阶</em></span>高级 LVM', "高级 LVM"),
        ('"<span class="emphasis"><em>基本</em></span> 代理', "代理"),
        (
            '<span class="emphasis"><em>TIP</em></span> <span class="emphasis"><em>RBL</em></span> use',
            "RBL use",
        ),
        ("Installing an RPM with yum", "Installing an RPM with yum"),
        ('The <span class="emphasis"><em>right</em></span> way', "The right way"),
    ],
)
def test_sidebar_titles_lose_their_kind(tmp_path: Path, heading: str, title: str) -> None:
    [section] = only(
        tmp_path,
        '<div class="sidebar"><a xmlns="" id="x"></a><div class="titlepage"><div><p class="title">'
        f"<strong>{heading}</strong></p></div></div></div>",
    )
    assert (section.id, section.title) == ("x", title)


def test_a_block_has_its_own_prose_only(tmp_path: Path) -> None:
    inner = (
        '<div class="sidebar"><div class="titlepage"><p class="title"><strong>S</strong></p></div>'
        '<a id="id-1.2" class="indexterm"></a><div class="para">Aside.</div></div>'
    )
    outer, first, second = only(
        tmp_path,
        '<div class="section"><div class="titlepage"><h2 class="title"><a id="x"></a>1.1. T</h2></div>'
        '<a id="id-1.1" class="indexterm"></a><div class="para">\n\t\tSee <code>a  b</code> in '
        '<a class="xref" href="y"><em>Chapter 2</em>, “Secret”</a>. '
        '<pre>shown</pre><div class="url">→ <a>u</a></div></div>'
        f'{inner}<pre class="screen">code</pre><div class="example"><p class="title">E</p><pre>e</pre></div>'
        '<div class="itemizedlist"><ul><li><div class="para">Item.</div></li></ul></div>'
        f'<div class="para"></div>{inner}</div>',
    )
    assert outer == Section("x", "T", ("See a b in ….", "Item.", ""))
    assert first == Section("x/1", "S", ("Aside.",))
    assert second.id == "x/2"


def test_a_broken_page_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(page("<p>"))
    with pytest.raises(GraspError, match=r"a\.html is not a readable page"):
        read_sections(tmp_path)


# Scripts and splits


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("الأمر apt", "ar", 5 / 8),
        ("使用 apt 工具", "zh", 4 / 7),
        ("カーネルの使い方 apt", "ja", 8 / 11),
        ("Über apt-get", "de", 1.0),
        ("12 + 3", "ar", 0.0),
        ("", "ja", 0.0),
    ],
)
def test_script_share(text: str, language: str, share: float) -> None:
    assert script_share(text, language) == pytest.approx(share)


SIZES = Sizes(train=3, dev=2, micro_dev=1, test=5)


@given(
    st.lists(st.sets(st.sampled_from("abc"), min_size=1).map(frozenset), min_size=12, max_size=40),
    st.integers(0, 9),
)
def test_a_section_has_one_role_in_all_languages(owners: list[frozenset[str]], seed: int) -> None:
    sections = {
        language: {str(number) for number, names in enumerate(owners) if language in names}
        for language in "abc"
    }
    smallest = min(map(len, sections.values()))
    try:
        splits = assign_roles(sections, SIZES, random.Random(seed))
    except GraspError:
        # With hardly more sections than a split needs, languages that overlap can get in each other's way.
        assert smallest < 13
        return
    assert splits == assign_roles(sections, SIZES, random.Random(seed))
    roles: dict[str, set[str]] = {}
    for language, split in splits.items():
        taken = [name for names in split.values() for name in names]
        assert len(set(taken)) == len(taken)
        assert set(taken) <= sections[language]
        assert [len(split[role]) for role in ("train", "dev", "micro_dev")] == [3, 2, 1]
        if smallest >= 13:
            assert len(split["test"]) == 5
        for role, names in split.items():
            for name in names:  # the pool is what training could take too
                roles.setdefault(name, set()).add("train" if role == "pool" else role)
    assert all(len(found) == 1 for found in roles.values())


@pytest.mark.parametrize("repeats", [6, 8])
@pytest.mark.parametrize("seed", range(10))
def test_languages_that_share_two_by_two_get_all_that_they_need(repeats: int, seed: int) -> None:
    pairs = ["ab", "bc", "ca"] * repeats
    sections = {
        language: {str(number) for number, pair in enumerate(pairs) if language in pair} for language in "abc"
    }
    try:
        splits = assign_roles(sections, SIZES, random.Random(seed))
    except GraspError:
        # 12 sections each, all of them shared, do not always fit the 11 that are needed; 16 do.
        assert repeats == 6
        return
    for split in splits.values():
        assert [len(split[role]) for role in ("train", "dev", "micro_dev")] == [3, 2, 1]
        assert len(split["test"]) == 5 or repeats == 6


def test_languages_share_the_sections_that_they_hold_out() -> None:
    everything = {str(number) for number in range(60)}
    splits = assign_roles(
        {"a": everything, "b": {str(number) for number in range(20)}}, SIZES, random.Random(0)
    )
    for role in HELD_OUT:
        assert set(splits["a"][role]) == set(splits["b"][role])


# The preparation


def test_splits_have_their_sizes_and_the_manifest_counts_them(prepared: Path) -> None:
    rows = read(prepared)
    manifest = json.loads((prepared / "manifest.json").read_text(encoding="utf-8"))
    assert {
        lang: {split: len(found) for split, found in splits.items()} for lang, splits in rows.items()
    } == (manifest["counts"])
    # Of 200 sections with a sidebar each and 20 chapters, a half, a quarter and a fifth are untranslated.
    for language, translated in {"ar": 220, "zh": 320, "ja": 340}.items():
        counts = manifest["counts"][language]
        assert (counts["train"], counts["dev"], counts["micro_dev"]) == (50, 50, 16)
        assert counts["test"] == min(100, translated - 116)
        dropped = manifest["dropped"][language]
        assert sum(counts.values()) + sum(dropped.values()) == 420
        assert dropped["untranslated title"] == 420 - translated
    assert {name for name in contents(prepared) if name != "manifest.json"} == set(manifest["files"])
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((prepared / name).read_bytes()).hexdigest() == digest
    assert manifest["inputs"]["seed"] == 42
    assert manifest["inputs"]["version"].startswith("unknown-")
    assert manifest["licence"] == "GPL-2+ or CC-BY-SA-3.0"


def test_a_section_has_the_same_role_in_every_language(prepared: Path) -> None:
    rows = read(prepared)
    roles: dict[str, set[str]] = {}
    for splits in rows.values():
        for split, found in splits.items():
            for row in found:  # the pool is what training could take too
                roles.setdefault(row["id"], set()).add("train" if split == "pool" else split)
    assert all(len(found) == 1 for found in roles.values())
    trained = {row["id"] for splits in rows.values() for row in splits["train"]}
    source_dev = {row["id"] for row in rows["en"]["dev"]}
    for target in TARGETS:
        held_out = {row["id"] for split in HELD_OUT for row in rows[target][split]}
        pool = {row["id"] for row in rows[target].get("pool", [])}
        assert held_out.isdisjoint(trained | source_dev | pool)
        assert pool.isdisjoint(source_dev)
    assert {row["id"] for row in rows["en"]["test"]} <= {
        row["id"] for target in TARGETS for row in rows[target]["test"]
    }


def test_no_held_out_title_or_text_is_trained_on_in_any_language(book: Path, tmp_path: Path) -> None:
    # Every chapter gets a section with one and the same English title, and another text that is repeated.
    html = tmp_path / "html"
    shutil.copytree(book, html)
    for path in html.glob("*/*.html"):
        text = path.read_text(encoding="utf-8")
        own = text.index('<div class="section">')
        aside = (
            '<div class="sidebar"><div class="titlepage"><p class="title"><strong>{}</strong></p></div>'
            '<div class="para">{}</div></div>'
        )
        words = {"en-US": "overview ", "ar-MA": "نظرة ", "zh-CN": "概述 ", "ja-JP": "あらまし "}[
            path.parent.name
        ]
        added = aside.format(words, f"{words * 20}{path.stem}") + aside.format(words + path.stem, words * 20)
        path.write_text(text[:own] + added + text[own:], encoding="utf-8")
    out = prepare_handbook(tmp_path / "out", html)
    english = {name: section.title for name, section in read_sections(html / "en-US").items()}
    rows = read(out)
    assert sum("overview" in row["title"] for split in rows["en"].values() for row in split) <= 2
    for column in ("title", "text"):
        for language, splits in rows.items():
            seen: dict[str, str] = {}
            for split, found in splits.items():
                for row in found:
                    assert seen.setdefault(row[column].casefold(), split) == split, (language, row[column])
    titles = {english[row["id"]] for splits in rows.values() for row in splits["train"]}
    for target in TARGETS:
        assert titles.isdisjoint(english[row["id"]] for split in HELD_OUT for row in rows[target][split])


def test_what_is_not_translated_is_dropped(prepared: Path) -> None:
    for language, splits in read(prepared).items():
        for row in (row for found in splits.values() for row in found):
            assert script_share(row["title"], language) == 1.0
            assert script_share(row["text"], language) == 1.0
            assert "# apt" not in row["text"]


@pytest.mark.parametrize(
    ("language", "title", "paragraphs", "reason"),
    [
        ("ar", "عنوان apt", ["{own}", "Some new and, English {english}"], "untranslated text"),
        ("ar", "عنوان apt", ["{own}", "{english}"], "untranslated text"),
        ("ar", "Debian", ["{own}", "{own}"], "untranslated title"),
        ("ar", "عنوان apt", ["نص", "قصير"], "too little text"),
        ("ar", "عنوان apt", ["{own}"], "not aligned with the English"),
        ("ar", "عنوان apt", ["{own}", "{own}"], None),
        ("de", "Ein Titel", ["{own}", "{english}"], "untranslated text"),
        ("de", "An English title", ["{own}", "{own}"], "untranslated title"),
        ("de", "Ein Titel", ["{own}", "{own}"], None),
    ],
)
def test_why_a_translation_is_dropped(
    book: Path, language: str, title: str, paragraphs: list[str], reason: str | None
) -> None:
    english = read_sections(book / "en-US")
    own = read_sections(book / "ar-MA")
    if language == "de":
        own = {
            name: Section(name, section.title[::-1], tuple(text[::-1] for text in section.paragraphs))
            for name, section in english.items()
        }
    _, before = split_sections({"en": english, language: own}, random.Random(0))
    name = "sect.1-2"
    english[name] = Section(name, "An English title", english[name].paragraphs)
    pair = zip(paragraphs, own[name].paragraphs, english[name].paragraphs, strict=False)
    texts = tuple(text.format(own=mine, english=original) for text, mine, original in pair)
    _, after = split_sections(
        {"en": english, language: own | {name: Section(name, title, texts)}}, random.Random(0)
    )
    more = Counter(after[language]) - Counter(before[language])
    assert more == Counter([reason] if reason else [])


def test_untranslated_paragraphs_count_against_a_section(book: Path, tmp_path: Path) -> None:
    html = tmp_path / "html"
    shutil.copytree(book, html)
    folder = html / "ar-MA"
    name = "sect.1-2"
    arabic, english = read_sections(folder)[name], read_sections(html / "en-US")[name]
    page_of = folder / "chapter-01.html"
    text = page_of.read_text(encoding="utf-8")
    assert arabic.paragraphs[0] in text
    page_of.write_text(text.replace(arabic.paragraphs[0], english.paragraphs[0]), encoding="utf-8")
    out = prepare_handbook(tmp_path / "out", html, languages=["ar"])
    dropped = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["dropped"]["ar"]
    assert dropped["untranslated text"] == 1


def test_the_task_reads_what_was_prepared(prepared: Path) -> None:
    task = load_task(prepared)
    [example] = task.examples("ar", "micro_dev", limit=1)
    row = read(prepared)["ar"]["micro_dev"][0]
    assert example.body is not None
    assert (example.id, example.target, example.prompt[slice(*example.body)]) == (
        row["id"],
        row["title"],
        row["text"],
    )
    assert example.prompt.startswith("اكتب عنوانًا")
    assert example.prompt.endswith("\n\nالعنوان:\n")
    held_out = {split: task.examples("ar", split) for split in HELD_OUT}
    for language in ("en", "ar"):
        check_disjoint({"train": task.examples(language, "train"), **held_out})


def test_the_seed_alone_decides(book: Path, prepared: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, grasp_lora.data.handbook.book as handbook\n"
        "out, source = map(pathlib.Path, sys.argv[1:])\n"
        "handbook.prepare_handbook(out, source, languages=['zh', 'ja', 'ar'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "again"), str(book)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert contents(tmp_path / "again") == contents(prepared)
    other = prepare_handbook(tmp_path / "other", book, seed=43)
    assert contents(other)["ar/test.jsonl"] != contents(prepared)["ar/test.jsonl"]


def test_a_language_with_too_few_sections_is_named(tmp_path: Path) -> None:
    html = make_book(tmp_path / "html", {"en-US": 0, "ar-MA": 0}, chapters=4)
    with pytest.raises(GraspError, match=r"'ar' has 84 usable sections.* at least 117"):
        prepare_handbook(tmp_path / "out", html, languages=["ar"])


def test_it_is_prepared_once(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRASP_CACHE", str(tmp_path))
    folder = prepare_handbook(source=book)
    assert folder == tmp_path / "data" / "handbook"
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    # Neither the pages nor apt are needed again.
    assert prepare_handbook() == prepare_handbook(source=book) == folder
    assert find_task("handbook").examples("ja", "dev", limit=1)
    assert find_folder("handbook", "zh") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == made
    assert prepare_handbook(source=book, languages=["ar"], seed=1).name == "handbook-ar-seed1"
    before = contents(folder)
    (folder / "ar" / "test.jsonl").write_text("")
    assert contents(prepare_handbook(source=book)) == before
    assert {path.name for path in folder.parent.iterdir()} == {"handbook", "handbook-ar-seed1"}


def test_a_users_folder_is_not_overwritten(book: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GraspError, match="already there"):
        prepare_handbook(tmp_path, book)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_nothing_is_left_of_a_failure(book: Path, tmp_path: Path) -> None:
    html = tmp_path / "html"
    shutil.copytree(book, html)
    (html / "ja-JP" / "chapter-09.html").write_text("<html>")
    with pytest.raises(GraspError, match=r"chapter-09\.html"):
        prepare_handbook(tmp_path / "out", html)
    assert [path.name for path in tmp_path.iterdir()] == ["html"]


@pytest.mark.parametrize("level", range(len(HTML.parts) + 1))
def test_an_unpacked_package_is_found_at_any_level(
    book: Path, prepared: Path, tmp_path: Path, level: int
) -> None:
    root = [book, *book.parents][level]
    assert contents(prepare_handbook(tmp_path / "out", root)) == contents(prepared)


@pytest.mark.parametrize(
    ("languages", "said"),
    [(["ko", "ar"], "cannot be prepared in ko; choose from ar, ca"), (["en"], "in no language")],
)
def test_unknown_languages(tmp_path: Path, languages: list[str], said: str) -> None:
    with pytest.raises(GraspError, match=said):
        prepare_handbook(tmp_path / "out", tmp_path, languages=languages)


def test_a_source_that_is_not_the_book(tmp_path: Path) -> None:
    with pytest.raises(GraspError, match="does not have the handbook's pages"):
        prepare_handbook(tmp_path / "out", tmp_path)
    with pytest.raises(GraspError, match="does not exist"):
        prepare_handbook(tmp_path / "out", tmp_path / "missing.deb")


# The package


def build_deb(book: Path, path: Path, package: str = "debian-handbook") -> Path:
    files = sorted(file for file in book.rglob("*") if file.is_file())
    content = tar([entry(f"./{HTML / file.relative_to(book)}", file.read_bytes()) for file in files])
    return deb(path, content, package)


@pytest.fixture(scope="session")
def package(book: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_deb(book, tmp_path_factory.mktemp("package") / "small.deb")


def pinned(file: Path) -> Pinned:
    content = file.read_bytes()
    return Pinned(f"pool/{file.name}", len(content), hashlib.sha256(content).hexdigest())


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[str]:
    """The address of a web server on this machine with these files, the first of them after a redirection."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/moved")
            if path == self.path and path.removeprefix("/debian/") == next(iter(files)):
                self.send_response(302)
                self.send_header("Location", f"/moved{path}")
                self.end_headers()
            elif (content := files.get(path.removeprefix("/debian/"))) is not None:
                self.send_response(200)
                self.end_headers()
                with suppress(ConnectionError):  # we hang up on what is too long
                    self.wfile.write(content)
            else:
                self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/debian/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def no_tools(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither apt-get nor dpkg-deb, nor a proxy between us and this machine's own servers."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    monkeypatch.setenv("no_proxy", "*")


def test_a_deb_is_unpacked(book: Path, package: Path, prepared: Path, tmp_path: Path) -> None:
    out = prepare_handbook(tmp_path / "out", package)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"]["version"] == "1:2.3"
    assert manifest["sha256"] == hashlib.sha256(package.read_bytes()).hexdigest()
    assert contents(out)["ja/test.jsonl"] == contents(prepared)["ja/test.jsonl"]
    with pytest.raises(GraspError, match="is the package 'cookbook', not 'debian-handbook'"):
        prepare_handbook(tmp_path / "new", build_deb(book, tmp_path / "other.deb", "cookbook"))
    (tmp_path / "broken.deb").write_bytes(package.read_bytes()[:5000])
    with pytest.raises(GraspError, match=r"broken\.deb cannot be unpacked as a \.deb"):
        prepare_handbook(tmp_path / "new", tmp_path / "broken.deb")
    assert not (tmp_path / "new").exists()


@needs_apt
def test_apt_downloads_without_touching_the_systems_lists(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real apt, from a repository in a folder that the user's own apt configuration names."""
    shutil.copy(package, tmp_path)
    index = (
        control("debian-handbook").decode()
        + f"Filename: ./{package.name}\nSize: {package.stat().st_size}\n"
        + f"SHA256: {pinned(package).sha256}\n"
    )
    (tmp_path / "Packages").write_text(index)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{tmp_path} ./\n")
    (tmp_path / "user.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'APT::Update::Post-Invoke {{ "touch {tmp_path}/hook-was-run"; }};\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "user.conf"))
    monkeypatch.setenv("GRASP_DEBIAN_ARCHIVE", "nowhere:")
    system = [path for path in (Path("/var/lib/apt"), Path("/var/cache/apt")) if path.is_dir()]
    before = {path: path.stat().st_mtime_ns for root in system for path in root.rglob("*")}
    out = prepare_handbook(tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for root in system for path in root.rglob("*")} == before
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["sha256"] == pinned(package).sha256
    assert not (tmp_path / "hook-was-run").exists()
    (tmp_path / "Packages").write_text(index.replace("debian-handbook", "cookbook"))
    with pytest.raises(GraspError, match=r"(?s)Unable to locate package debian-handbook.*--from"):
        prepare_handbook(tmp_path / "new")


def test_without_apt_it_comes_from_an_archive(
    package: Path,
    no_tools: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(handbook, "PINNED", pinned(package))
    caplog.set_level("INFO")
    with serving({f"pool/{package.name}": package.read_bytes()}) as base:
        monkeypatch.setenv("GRASP_DEBIAN_ARCHIVE", base)
        out = prepare_handbook(tmp_path / "out")
    assert contents(out) == contents(prepare_handbook(tmp_path / "given", package))
    assert "not through apt, but from Debian's archive: there is no apt-get here" in caplog.messages
    assert f"downloading {base}pool/small.deb (0 MB)" in caplog.messages


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (None, r"small.deb: HTTP Error 404: Not Found"),
        (
            b"<html>log in first</html>",
            r"small.deb is another file .* its 25 bytes is [0-9a-f]{64}, not the ",
        ),
        (b"x" * 10**7, r"small.deb is another file .* its more than [\d,]{7} bytes is "),
    ],
)
def test_what_an_archive_sends_is_checked(
    package: Path,
    no_tools: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: bytes | None,
    said: str,
) -> None:
    monkeypatch.setattr(handbook, "PINNED", pinned(package))
    with serving({"other": b""} if file is None else {f"pool/{package.name}": file}) as base:
        monkeypatch.setenv("GRASP_DEBIAN_ARCHIVE", base)
        with pytest.raises(
            GraspError, match=rf"(?s)no apt-get here.*{said}.*Set GRASP_DEBIAN_ARCHIVE.*--from"
        ):
            prepare_handbook(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "base", ["nowhere", "nowhere:", "http://127.0.0.1:1/debian", "http://[", "file:///no"]
)
def test_an_address_that_does_not_answer(
    no_tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.setenv("GRASP_DEBIAN_ARCHIVE", base)
    with pytest.raises(GraspError, match=rf"archive: {re.escape(base)}/pool/main/d/debian-handbook/.*: \S+"):
        prepare_handbook(tmp_path / "out")


@pytest.mark.slow
@needs_apt
@needs_dpkg
def test_the_real_package_gives_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt").mkdir()
    real = download("debian-handbook", tmp_path / "apt")
    if pinned(real).sha256 != PINNED.sha256:
        pytest.skip(f"apt has another version here: {real.name}")
    assert real.stat().st_size == PINNED.size
    subprocess.run(["dpkg-deb", "--extract", real, tmp_path / "theirs"], check=True)
    unpack(real, tmp_path / "ours")
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")
    given = contents(prepare_handbook(tmp_path / "given", real))
    folder = contents(prepare_handbook(tmp_path / "folder", tmp_path / "theirs"))
    assert {**folder, "manifest.json": b""} == {**given, "manifest.json": b""}
    with serving({PINNED.path: real.read_bytes()}) as base:
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("GRASP_DEBIAN_ARCHIVE", base)
        assert contents(prepare_handbook(tmp_path / "served")) == given


def test_a_language_that_shares_no_sections_is_prepared_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "grasp_lora.data.find.prepare_card", lambda card, languages: asked.append(languages) or Path("x")
    )
    for language in ("fa", "zh", "", "xx"):
        find_folder("handbook", language)
    find_folder("xlsum", "fa")
    assert asked == [["fa"], None, None, None, None]
