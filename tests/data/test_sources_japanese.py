"""Bloomberg's pages, the LaTeX corpus and J-STAGE's pages."""

from pathlib import Path

import pytest
from tests.helpers.sources import SMALL, prepared, rows, small

from grasp_lora.data.prepare import prepare_card
from grasp_lora.data.sources.html import parse
from grasp_lora.data.sources.latex import argument, plain
from grasp_lora.errors import GraspError
from grasp_lora.tasks.task import load_task

ARTICLE = """\
<!DOCTYPE html><html lang="ja"><head><meta charset="utf-8">
<title>日本株{n} - Bloomberg</title>
<meta property="og:title" content="日本株は反発&#12289;第{n}報">
<meta property="og:url" content="https://www.bloomberg.co.jp/news/articles/{n}">
<script>var x = "<p>not text</p>";</script></head>
<body><nav><ul><li>マーケット</li></ul></nav>
<article><h1 class="lede-text-v2__hed">別の題</h1>
<ul class="abstract"><li class="abstract__item"><span>円安が支え{n}</span></li>
<li class="abstract__item"><span>銀行株に<b>買い</b></span>
</ul>
<div class="body-copy-v2 fence-body"><p>東京株式相場は{n}日ぶりに反発。<p>銀行株<br>などが高い。</p>
<div class="ad"><script>ad()</script></div><p> </p></div></article>
<footer><p>広告</p></footer></body></html>
"""


def articles(folder: Path, count: int = 8) -> Path:
    source = folder / "pages"
    source.mkdir()
    for n in range(count):
        (source / f"{n}.html").write_text(ARTICLE.replace("{n}", str(n)), encoding="utf-8")
    return source


def test_bloomberg_highlights_are_joined_to_the_title(tmp_path: Path) -> None:
    manifest = prepared(small(tmp_path, "bloomberg_ja"), articles(tmp_path), tmp_path / "out")
    assert manifest["counts"] == {"ja": SMALL}
    [row, *_] = rows(tmp_path / "out", "ja", "train")
    n = row["id"].rsplit("/", 1)[1]
    assert row["summary"] == f"日本株は反発、第{n}報\n円安が支え{n}\n銀行株に買い"
    assert row["text"] == f"東京株式相場は{n}日ぶりに反発。\n銀行株 などが高い。"
    [example, *_] = load_task(tmp_path / "out").examples("ja", "train")
    assert (
        example.prompt
        == f"Summarize the following article in three sentences.\nArticle: {row['text']}\nSummary:\n"
    )


def test_pages_without_highlights_are_no_examples(tmp_path: Path) -> None:
    source = articles(tmp_path)
    page = ARTICLE.replace("{n}", "90")
    (source / "a.html").write_text(page.replace("abstract", "x"), encoding="utf-8")
    (source / "b.html").write_text(page.replace("body-copy", "x"), encoding="utf-8")
    (source / "c.html").write_text(page.replace("og:title", "x").replace("h1", "h2"), encoding="utf-8")
    (source / "d.html").write_bytes(page.encode("shift_jis", "replace"))
    (source / "e.html").write_bytes(page.replace('"utf-8"', '"Shift_JIS"').encode("shift_jis"))
    dropped = prepared(small(tmp_path, "bloomberg_ja"), source, tmp_path / "out")["dropped"]["ja"]
    assert dropped == {
        "page without bullet highlights": 1,
        "page without a text": 1,
        "page without a title": 1,
        "wrong encoding": 1,
        "left over": 2,
    }


def test_class_names_can_be_told(tmp_path: Path) -> None:
    source = articles(tmp_path)
    for page in source.iterdir():
        text = page.read_text(encoding="utf-8").replace('"abstract"', '"bullets-2026"')
        page.write_text(text.replace("abstract__item", "item"), encoding="utf-8")
    with pytest.raises(GraspError, match=r"no row of 'ja' .* can be used: 8 page without bullet"):
        prepare_card(small(tmp_path, "bloomberg_ja"), source, tmp_path / "out")
    card = small(tmp_path, "bloomberg_ja", options={"highlights": "bullets", "join": " / "})
    prepare_card(card, source, tmp_path / "out")
    assert " / 円安が支え" in rows(tmp_path / "out", "ja", "test")[0]["summary"]
    with pytest.raises(
        GraspError, match=r"the reader bloomberg has no option 'bullets'; it has highlights, body, join"
    ):
        small(tmp_path, "bloomberg_ja", options={"bullets": "x"})


def test_classes_of_the_items_themselves(tmp_path: Path) -> None:
    source = articles(tmp_path)
    for page in source.iterdir():
        text = page.read_text(encoding="utf-8").replace('<ul class="abstract">', '<ul class="bullets">')
        page.write_text(text.replace("abstract__item", "article-abstract__item"), encoding="utf-8")
    prepare_card(small(tmp_path, "bloomberg_ja"), source, tmp_path / "out")
    summary = rows(tmp_path / "out", "ja", "test")[0]["summary"].split("\n")
    assert summary[2] == "銀行株に買い"
    with pytest.raises(GraspError, match="option 'body' must say how class names begin"):
        prepare_card(small(tmp_path, "bloomberg_ja", options={"body": []}), source, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_html_that_is_not_closed() -> None:
    page = parse("<ul class='a b'><li>one<li>two <i>and</ul><p>three<p>four &amp; five</div></p>")
    assert [item.text() for item in page.find("li")] == ["one", "two and"]
    assert [item.text() for item in page.find("p")] == ["three", "four & five"]
    assert [item.tag for item in page.find(classes=["b"])] == ["ul"]


# LaTeX

PAPER = r"""\documentclass[platex]{jnlp_1.4}
\usepackage{url} % \jtitle{not this}
\Volume{{N}}
\jtitle[短い題]{{\bf 統計的}機械翻訳における\\語順の研究{N}\footnote{予稿は\cite{a}にある．}}
\etitle{A Study of Word Order}
\jauthor{山田 太郎}
\jabstract{%
本稿{N}では，\LaTeX による文書の語順\cite{yamada{N}}を
調べる．精度は95.3\,\%であった~\cite[p.~3]{b}\vspace{-1mm}．
$n$-gram と \texttt{BLEU\_4} を用い，
{\em 新しい}手法を提案する．
}
\eabstract{In this paper we study word order.}
\begin{document}
\maketitle
\section{はじめに}
\end{document}
"""
OTHER = r"""\documentclass{jnlp}
\title{対話システムの評価{N}}
\begin{abstract}
対話システムを評価する方法を述べる{N}．
\end{abstract}
"""


def papers(folder: Path) -> Path:
    source = folder / "corpus"
    for n in range(8):
        path = source / f"V{n:02}" / f"V{n:02}N01-01.tex"
        path.parent.mkdir(parents=True)
        text = (PAPER if n % 2 else OTHER).replace("{N}", str(n))
        path.write_bytes(text.encode(["utf-8", "euc_jp", "cp932", "iso2022_jp"][n // 2]))
    return source


def test_titles_and_abstracts_of_latex_in_any_encoding(tmp_path: Path) -> None:
    manifest = prepared(small(tmp_path, "nlp_titles_ja"), papers(tmp_path), tmp_path / "out")
    assert manifest["counts"] == {"ja": SMALL}
    assert manifest["dropped"] == {"ja": {"left over": 1}}
    found = {row["id"]: row for split in SMALL for row in rows(tmp_path / "out", "ja", split)}
    for name, row in found.items():
        n = int(name[1:3])
        if n % 2:
            assert row["title"] == f"統計的機械翻訳における語順の研究{n}"
            assert row["abstract"] == (
                f"本稿{n}では，LaTeX による文書の語順を調べる．精度は95.3%であった．"
                "n-gram と BLEU_4 を用い，新しい手法を提案する．"
            )
        else:
            assert row == {
                "id": name,
                "title": f"対話システムの評価{n}",
                "abstract": f"対話システムを評価する方法を述べる{n}．",
            }


def test_papers_that_are_no_examples(tmp_path: Path) -> None:
    source = papers(tmp_path)
    english = r"\title{On Words}\begin{abstract}We study words.\end{abstract}"
    (source / "english.tex").write_text(english)
    (source / "untitled.tex").write_text(english.replace(r"\title{On Words}", ""))
    (source / "macros.tex").write_text(r"\newcommand{\x}{y}\title{題}")
    (source / "broken.tex").write_bytes(b"\\title{\x81\x20}")
    card = small(tmp_path, "nlp_titles_ja")
    assert prepared(card, source, tmp_path / "out")["dropped"]["ja"] == {
        "not in Japanese": 1,
        "paper without a title": 1,
        "paper without an abstract": 1,
        "wrong encoding": 1,
        "left over": 1,
    }


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"a\textbf{b}c", "abc"),
        (r"a \label{x}{\bf b}", "a b"),
        (r"100\% \& more", "100% & more"),
        (r"\href{http://x}{here} \url{http://y}", "here"),
        ("日本\n語 と\nwords\nhere", "日本語 とwords here"),
        (r"\begin{itemize}\item one\end{itemize}", "one"),
        (r"x\footnote{a {b} c}y", "xy"),
        (r"\cite", ""),
        ("{unbalanced", "unbalanced"),
    ],
)
def test_latex_becomes_plain_text(source: str, text: str) -> None:
    assert plain(source) == text


def test_arguments_have_balanced_braces() -> None:
    assert argument(r"\titlepage \title [x] {a {b} \} c} d", "title") == r"a {b} \} c"
    assert argument(r"\title{a", "title") == "a"
    assert argument("nothing", "title") == ""


# J-STAGE

PAGE = """\
<!DOCTYPE html><html lang="ja"><head><meta charset="UTF-8">
<meta name="title" content="{title}" /><meta name="language" content="ja" />
<meta name="journal_title" content="日本内科学会雑誌" />
<meta name="doi" content="10.2169/naika.{n}" />
<meta name="abstract" content="{abstract}" />
<meta name="authors" content="山田 太郎" /></head><body><h1>x</h1></body></html>
"""


def page(
    number: int, title: str = "{n}歳女性の症例", abstract: str = "症例は{n}歳の女性．発熱 &lt; 38℃を認めた．"
) -> str:
    text = PAGE.replace("{title}", title).replace("{abstract}", abstract)
    return text.replace("{n}", str(number))


def test_jstage_metadata(tmp_path: Path) -> None:
    source = tmp_path / "pages"
    source.mkdir()
    for n in range(8):
        (source / f"{n}.html").write_text(page(n), encoding="utf-8")
    (source / "no.html").write_text(page(90, abstract=""), encoding="utf-8")
    (source / "en.html").write_text(page(91, abstract="A 91-year-old woman with fever."), encoding="utf-8")
    (source / "again.html").write_text(page(1), encoding="utf-8")
    (source / "other.html").write_text(page(2, title="別の題"), encoding="utf-8")
    manifest = prepared(small(tmp_path, "medical_titles_ja"), source, tmp_path / "out")
    assert manifest["counts"] == {"ja": SMALL}
    assert manifest["dropped"]["ja"] == {
        "page without an abstract": 1,
        "not in Japanese": 1,
        "the same row again": 1,
        "id used twice": 1,
        "left over": 1,
    }
    [row, *_] = rows(tmp_path / "out", "ja", "dev")
    n = row["id"].removeprefix("10.2169/naika.")
    assert row == {
        "id": row["id"],
        "title": f"{n}歳女性の症例",
        "abstract": f"症例は{n}歳の女性．発熱 < 38℃を認めた．",
    }
    [example, *_] = load_task(tmp_path / "out").examples("ja", "dev")
    assert "Please only output the Japanese title.\nAbstract: 症例は" in example.prompt
