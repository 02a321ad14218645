"""The page in a real browser, Chromium without a window: from a file, in light and dark, small, printed."""

import shutil

import pytest
from tests.helpers.rows import made_up_run

from grasp_lora.reporting.report import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
TEXTS = {
    "ar": "دليل التثبيت",
    "zh": "安裝手冊",
    "ja": "導入の手引き",
    "hi": "स्थापना पुस्तिका",
    "th": "คู่มือการติดตั้ง",
}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    run = made_up_run(tmp_path_factory.mktemp("runs") / "titles", answer=" ".join(TEXTS.values()))
    return report([run], run.parent / "report")


def opened(browser, page_file, **how):
    """A page, what it asked for, and what it complained of."""
    page = browser.new_page(**how)
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_file.as_uri())
    return page, asked, said


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_a_file_and_asks_for_nothing_else(browser, page_file, scheme):
    page, asked, said = opened(browser, page_file, color_scheme=scheme)
    assert (asked, said) == ([page_file.as_uri()], [])
    paper, ink = page.evaluate(
        "(() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color] })()"
    )
    light = [sum(map(int, colour[4:-1].split(","))) > 380 for colour in (paper, ink)]
    assert light == ([True, False] if scheme == "light" else [False, True])
    axis = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert axis == ink  # a figure's texts are in the page's ink


def test_tables_sort(browser, page_file):
    page, _, said = opened(browser, page_file)
    table = page.locator("section#losses table")
    names = [head.inner_text() for head in table.locator("th").all()]

    def column(name):
        cells = table.locator(f"tbody td:nth-child({names.index(name) + 1})")
        return [cell.inner_text() for cell in cells.all()]

    values = sorted(map(float, column("test")))
    head = table.locator("th button", has_text="test").first
    head.click()
    assert list(map(float, column("test"))) == values
    assert table.locator("th").nth(names.index("test")).get_attribute("aria-sort") == "ascending"
    head.click()
    assert list(map(float, column("test"))) == values[::-1]
    table.locator("th button", has_text="method").click()
    assert column("method") == ["GRASP", "LORA_TARGET", "MERGE"]
    table.locator("th button", has_text="p").first.click()
    assert column("p") == ["0.000", "0.400", ""]  # empty cells last
    assert said == []


def test_a_phone_scrolls_down_only(browser, page_file):
    page, _, _ = opened(browser, page_file, viewport={"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_texts_run_their_own_way(browser, page_file):
    page, _, _ = opened(browser, page_file)
    answer = page.locator(".answers dd", has_text=TEXTS["ar"]).first
    assert answer.evaluate("e => getComputedStyle(e).direction") == "rtl"
    assert all(text in answer.inner_text() for text in TEXTS.values())
    reference = page.locator(".answers dd").first
    assert reference.evaluate("e => getComputedStyle(e).direction") == "ltr"


def test_it_prints(browser, page_file, tmp_path):
    page, _, _ = opened(browser, page_file, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    printed = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert printed.startswith(b"%PDF-")
