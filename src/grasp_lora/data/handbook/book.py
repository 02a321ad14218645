"""Titles for the sections of the Debian Administrator's Handbook, in English and its translations.

The book is in Debian and Ubuntu as the package `debian-handbook`, one folder of XHTML per language.
English is the source language.
"""

import gzip
import hashlib
import logging
import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grasp_lora.data.folder import is_prepared, sha256, write_prepared
from grasp_lora.data.handbook import deb, debian
from grasp_lora.data.handbook.pages import read_sections
from grasp_lora.data.handbook.rows import SOURCE, split_sections
from grasp_lora.errors import GraspError
from grasp_lora.paths import cache_dir
from grasp_lora.version import __version__

__all__ = ["LANGUAGES", "SHARED", "prepare_handbook"]

logger = logging.getLogger(__name__)

PACKAGE = "debian-handbook"
PINNED = debian.Pinned(
    path=f"pool/main/d/{PACKAGE}/{PACKAGE}_11.20220922_all.deb",
    size=34_758_056,
    sha256="3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa",
)
"""The version of Debian 12 and 13, for where there is no apt."""
LICENCE = "GPL-2+ or CC-BY-SA-3.0"
HTML = ("usr", "share", "doc", PACKAGE, "html")
PREPARATION = 2
"""Raised whenever the same package would give other rows: folders made before are then prepared again."""

# Language -> (folder, the prompt's parts): direct translations of the English. All translations of the book
# are here that have 160 usable sections or more; each of the others has 124 or fewer: hardly any test rows.
LANGUAGES: dict[str, tuple[str, str, str]] = {
    "en": ("en-US", "Write a short title for this section of a manual.", "Title:"),
    "ar": ("ar-MA", "اكتب عنوانًا قصيرًا لهذا القسم من الدليل.", "العنوان:"),
    "ca": ("ca-ES", "Escriu un títol breu per a aquesta secció d'un manual.", "Títol:"),
    "de": ("de-DE", "Schreibe einen kurzen Titel für diesen Abschnitt eines Handbuchs.", "Titel:"),
    "es": ("es-ES", "Escribe un título breve para esta sección de un manual.", "Título:"),
    "fa": ("fa-IR", "برای این بخش از راهنما یک عنوان کوتاه بنویسید.", "عنوان:"),
    "fr": ("fr-FR", "Écris un titre court pour cette section d'un manuel.", "Titre :"),
    "id": ("id-ID", "Tulis judul singkat untuk bagian buku panduan ini.", "Judul:"),
    "it": ("it-IT", "Scrivi un titolo breve per questa sezione di un manuale.", "Titolo:"),
    "ja": ("ja-JP", "マニュアルのこの節に短いタイトルを付けてください。", "タイトル："),
    "nb": ("nb-NO", "Skriv en kort tittel for denne delen av en håndbok.", "Tittel:"),
    "pt": ("pt-BR", "Escreva um título curto para esta seção de um manual.", "Título:"),
    "ru": ("ru-RU", "Напиши короткий заголовок для этого раздела руководства.", "Заголовок:"),
    "sv": ("sv-SE", "Skriv en kort rubrik för det här avsnittet i en handbok.", "Rubrik:"),
    "zh": ("zh-CN", "为手册的这一节写一个简短的标题。", "标题："),
    "zh-TW": ("zh-TW", "為手冊的這一節寫一個簡短的標題。", "標題："),
}
SHARED = ("ar", "zh", "ja")  # prepared together where none are named
MAX_NEW_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Package:
    """The book's pages and where they came from."""

    html: Path
    version: str
    sha256: str | None


def prepare_handbook(
    out: Path | None = None,
    source: Path | None = None,
    languages: Sequence[str] = SHARED,
    seed: int = 42,
) -> Path:
    """Prepare the handbook's task, or find it prepared.

    Args:
        out: The folder to write; by default one in the user's cache, named after languages and seed.
        source: The package's .deb, or a folder that it was unpacked into (at any level down to `html`). By
            default it is downloaded: through apt, without root, or where that fails from an archive on the
            web, see `data.handbook.debian`.
        languages: Targets, out of `LANGUAGES`.
        seed: Of the splits.

    Returns:
        The prepared folder. For each target it has 50 train, 50 dev, 16 micro-dev and up to 100 test rows;
        for English everything else as train, 50 dev, and the English of the test sections as test. A
        section has the same role in all languages. What a target could train on beyond its train is its pool.
    """
    targets = sorted(set(languages) - {SOURCE})
    unknown = [language for language in targets if language not in LANGUAGES]
    if unknown or not targets:
        there = ", ".join(language for language in LANGUAGES if language != SOURCE)
        raise GraspError(
            f"the handbook cannot be prepared in {', '.join(unknown) or 'no language'}; choose from {there}"
        )
    folder = out or cache_dir() / "data" / _default_name(targets, seed)
    inputs: dict[str, Any] = {"preparation": PREPARATION, "languages": targets, "seed": seed}
    if source is None and is_prepared(folder, inputs):
        return folder
    with tempfile.TemporaryDirectory(prefix="grasp-handbook-") as scratch:
        package = _package(source, Path(scratch))
        inputs |= {"package": PACKAGE, "version": package.version}
        if is_prepared(folder, inputs):
            return folder
        logger.info("reading the handbook's pages")
        pages = {name: read_sections(package.html / LANGUAGES[name][0]) for name in (SOURCE, *targets)}
        rows, dropped = split_sections(pages, random.Random(seed))
        manifest = {
            "inputs": inputs,
            "sha256": package.sha256,
            "licence": LICENCE,
            "made": f"prepare_handbook of grasp_lora {__version__}",
            "dropped": dropped,
        }
        write_prepared(folder, _task(targets, package.version), rows, manifest, replace=out is None)
    logger.info("the handbook (%s %s) is in %s", PACKAGE, package.version, folder)
    return folder


def _default_name(targets: Sequence[str], seed: int) -> str:
    name = "handbook" if set(targets) == set(SHARED) else f"handbook-{'-'.join(targets)}"
    return name if seed == 42 else f"{name}-seed{seed}"


def _task(targets: Sequence[str], version: str) -> dict[str, Any]:
    prompts = {}
    for language in (SOURCE, *targets):
        _, instruction, cue = LANGUAGES[language]
        prompts[language] = f"{instruction}\n\n{{text}}\n\n{cue}\n"
    return {
        "name": "handbook",
        "prompt": prompts,
        "target": "title",
        "body": "text",
        "id": "id",
        "max_new_tokens": MAX_NEW_TOKENS,
        "licence": LICENCE,
        "source": f"The Debian Administrator's Handbook, Debian package {PACKAGE} {version}",
    }


# The package


def _package(source: Path | None, scratch: Path) -> Package:
    if source is None:
        return _download(scratch)
    if source.is_dir():
        html = _html(source)
        return Package(html, _version(html), None)
    if not source.is_file():
        raise GraspError(
            f"{source} does not exist: give the {PACKAGE} .deb, or a folder it was unpacked into"
        )
    return _unpack(source, scratch / "unpacked")


def _unpack(file: Path, folder: Path) -> Package:
    fields = deb.fields(file)
    if fields["Package"] != PACKAGE:
        raise GraspError(f"{file} is the package {fields['Package']!r}, not {PACKAGE!r}")
    deb.unpack(file, folder)
    return Package(_html(folder), fields["Version"], sha256(file))


def _download(scratch: Path) -> Package:
    """The package through apt, or where that fails, also if it cannot be unpacked here, from the archive."""
    apt, web = scratch / "apt", scratch / "web"
    apt.mkdir()
    web.mkdir()
    try:
        return _unpack(debian.download(PACKAGE, apt), apt / "unpacked")
    except GraspError as error:
        reason = error
    logger.info("not through apt, but from Debian's archive: %s", " ".join(str(reason).split()))
    try:
        return _unpack(debian.fetch(PINNED, web), web / "unpacked")
    except GraspError as error:
        raise GraspError(
            f"the package {PACKAGE} could be had neither through apt: {reason}\n"
            f"nor from Debian's archive: {error}\n"
            f"Set GRASP_DEBIAN_ARCHIVE to the base address of a mirror that has {PINNED.path}, such as "
            "https://deb.debian.org/debian, or give a .deb of the package, or a folder that it was unpacked "
            "into, with --from"
        ) from None


def _html(folder: Path) -> Path:
    """The folder with one folder per language."""
    for start in range(len(HTML) + 1):
        html = folder.joinpath(*HTML[start:])
        if (html / LANGUAGES[SOURCE][0]).is_dir():
            return html
    raise GraspError(
        f"{folder} does not have the handbook's pages: "
        f"{Path(*HTML, LANGUAGES[SOURCE][0])} or the end of that path must be in it"
    )


def _version(html: Path) -> str:
    """From the changelog beside the pages, or a name made from the English pages."""
    for name in ("changelog.gz", "changelog.Debian.gz"):
        try:
            first = gzip.decompress((html.parent / name).read_bytes()).split(b"\n", 1)[0].decode()
        except (OSError, EOFError, UnicodeDecodeError):
            continue
        if found := re.match(rf"{PACKAGE} \((\S+)\)", first):
            return found[1]
    pages = sorted((html / LANGUAGES[SOURCE][0]).glob("*.html"))
    return f"unknown-{hashlib.sha256(b''.join(page.read_bytes() for page in pages)).hexdigest()[:12]}"
