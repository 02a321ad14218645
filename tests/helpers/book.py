"""A small made-up book in the form of the Debian Administrator's Handbook: XHTML folders per language."""

import random
from pathlib import Path

__all__ = ["make_book", "page"]

LETTERS = {
    "en-US": "abdegiklmnoprstu",
    "ar-MA": "ابتجدرسعفكلمنهوي",
    "zh-CN": "天地人山水火木金土日月星",
    "ja-JP": "かきくけこさしすせそたちつてと",
}
CHAPTERS = {"en-US": "Chapter {}. ", "ar-MA": "فصل {}. ", "zh-CN": "第 {} 章 ", "ja-JP": "第 {} 章 "}
KINDS = {"en-US": "NOTE", "ar-MA": "ملاحظة", "zh-CN": "注意", "ja-JP": "NOTE"}


def page(body: str) -> str:
    """A page with this in its body."""
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" '
        '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">'
        '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>1.1. x</title></head>'
        f'<body><p id="title"><a class="left" href="x">x</a></p>{body}</body></html>'
    )


def _words(language: str, key: str, count: int) -> str:
    generator = random.Random(f"{language} {key}")
    return " ".join("".join(generator.choices(LETTERS[language], k=7)) for _ in range(count))


def _title_page(heading: str) -> str:
    return f'<div class="titlepage"><div><div>{heading}</div></div></div>'


def _section(language: str, chapter: int, number: int) -> str:
    """A section with two paragraphs, a screen, and a sidebar that has no id."""
    name = f"sect.{chapter}-{number}"
    title, side, other = (_words(language, f"{name} {key}", 3) for key in ("title", "side", "other"))
    one, two, three = (_words(language, f"{name} {key}", 14) for key in ("one", "two", "three"))
    heading = f'<h2 class="title"><a xmlns="" id="{name}"></a>{chapter}.{number}.\u00a0{title}</h2>'
    kind = f'<span class="emphasis"><em>{KINDS[language]}</em></span>'
    aside = f'<p class="title"><strong>{kind} {side}</strong></p>'
    return (
        f'<div class="section">{_title_page(heading)}<a id="id-{chapter}.{number}.2" class="indexterm"></a>'
        f'<div class="para">\n\t\t{one}\n\t</div><pre class="screen"># apt install everything</pre>'
        f'<div class="sidebar">{_title_page(aside)}'
        f'<a id="id-{chapter}.{number}.4.2" class="indexterm"></a><div class="para">{three}</div></div>'
        f'<div class="para">{two} (<a class="xref" href="x.html">1.2, “{other}”</a>)</div></div>'
    )


def make_book(html: Path, languages: dict[str, int], chapters: int = 20) -> Path:
    """Write `html/LANGUAGE/*.html`: chapters of ten sections, each with a sidebar; returns `html`.

    Args:
        html: The folder to make.
        languages: Folder name -> n: every n-th section is left in English; 0 for none.
        chapters: Files per language.
    """
    for language, skipped in languages.items():
        folder = html / language
        folder.mkdir(parents=True)
        for chapter in range(1, chapters + 1):
            title, text = (_words(language, f"{chapter} {count}", count) for count in (2, 14))
            label = CHAPTERS[language].format(chapter)
            heading = f'<h1 class="title"><a xmlns="" id="c{chapter}"></a>{label}{title}</h1>'
            parts = [
                f'<div class="chapter">{_title_page(heading)}<div class="toc"><p>{title}</p></div>'
                f'<div class="highlights"><div class="para">{text}</div></div>'
            ]
            for number in range(1, 11):
                untranslated = skipped and (chapter + number) % skipped == 0
                parts.append(_section("en-US" if untranslated else language, chapter, number))
            path = folder / f"chapter-{chapter:02}.html"
            path.write_text(page("".join([*parts, "</div>"])), encoding="utf-8")
    return html
