"""Links and anchors lead somewhere, every page is in the site, and the site builds."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.helpers.pages import PAGES, ROOT, anchors, links, text_of

import grasp_lora


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        named = os.path.relpath(target, ROOT)
        known = target.exists() and not named.startswith("..")
        if not known or (anchor and (named not in PAGES or anchor not in anchors(named))):
            broken.append(link)
    assert not broken


def test_the_check_of_links_can_fail():
    assert "installing" in anchors("README.md")
    assert "no-such-heading" not in anchors("README.md")
    assert len(links("docs/index.md")) > 15


def pages_of(nav):
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else pages_of(value)


def test_every_page_is_in_the_navigation():
    site = tomllib.loads(text_of("zensical.toml"))["project"]
    assert sorted(pages_of(site["nav"])) == sorted(PAGES)


def test_start_here_leads_to_every_page_of_the_docs():
    from_here = {os.path.normpath(f"docs/{link}") for link in links("docs/index.md")}
    assert {page for page in PAGES if page.startswith("docs/")} - from_here == {"docs/index.md"}


def test_the_api_page_has_every_public_name():
    shown = re.findall(r"^::: grasp_lora\.(.+)\.(\w+)$", text_of("docs/api.md"), flags=re.M)
    assert {name for _, name in shown} == set(grasp_lora.__all__) - {"__version__"}
    assert all(grasp_lora._HOMES[name] == module for module, name in shown)


@pytest.fixture
def staged(tmp_path):
    """What `make docs` does before it builds, in a folder of its own."""
    pytest.importorskip("zensical")
    copy = re.search(r"^docs:.*?\tcp -r (.+?) build/docs/$", text_of("Makefile"), flags=re.M | re.S)[1]
    for name in copy.split():
        target = tmp_path / "build/docs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    text = text_of("zensical.toml").replace('paths = ["src"]', f'paths = ["{ROOT / "src"}"]')
    (tmp_path / "zensical.toml").write_text(text)
    return tmp_path


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ)


@pytest.mark.slow
def test_the_site_builds_and_a_broken_link_breaks_it(staged):
    done = build(staged)
    assert done.returncode == 0, done.stdout + done.stderr
    site = staged / "build/site"
    assert "GraspCallback" in (site / "docs/api/index.html").read_text(encoding="utf-8")
    assert "From beginning to end" in (site / "index.html").read_text(encoding="utf-8")
    page = staged / "build/docs/docs/rows.md"
    whole = page.read_text(encoding="utf-8")
    for broken in ("[x](nowhere.md)", "[x](report.md#nowhere)"):
        page.write_text(f"{whole}\n{broken}\n", encoding="utf-8")
        assert build(staged).returncode != 0, broken
