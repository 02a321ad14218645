"""Cards: the built-in ones, a user's own, tables of any kind, and `grasp data list`, `prepare`, `show`."""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.sources import SMALL, json_lines, prepared, rows, small, squad, xlsum_archive
from tests.helpers.tokenizer import tiny_tokenizer

from grasp_lora.cli.main import main
from grasp_lora.data.card import ANY, Card, Sizes, card_folders, find_card, list_cards, load_card
from grasp_lora.data.find import find_task
from grasp_lora.data.prepare import prepare_card
from grasp_lora.data.show import histogram, script_mix, show
from grasp_lora.data.sources.patterns import FilePatterns
from grasp_lora.errors import GraspError
from grasp_lora.lm.encoding import encode_prompt
from grasp_lora.tasks.files import parquet_rows
from grasp_lora.tasks.task import load_task

LANGUAGES = {
    "xlsum": {"en", "ar", "zh", "ja"},
    "xlsum_full": {"en", "ja"},
    "xlsum_micro32": {"en", "ar", "zh", "ja"},
    "mlqa": {"en", "ar", "zh", "de", "es", "hi", "vi"},
    "wikilingua": {"en", "ja"},
    "scitldr": {"en"},
    "mimic_iii": {"en"},
    "bloomberg_ja": {"ja"},
    "nlp_titles_ja": {"ja"},
    "medical_titles_ja": {"ja"},
    "handbook": {
        "en",
        "ar",
        "ca",
        "de",
        "es",
        "fa",
        "fr",
        "id",
        "it",
        "ja",
        "nb",
        "pt",
        "ru",
        "sv",
        "zh",
        "zh-TW",
    },
    "squad_json": {"en", "ar", "zh", "de", "es", "hi", "vi"},
    "jsonl": {"en", ANY},
    "csv": {"en", ANY},
    "parquet": {"en", ANY},
}


def card(name: str) -> Card:
    found = find_card(name, [])
    assert found is not None
    return found


# The built-in cards


def test_the_built_in_cards_and_their_languages() -> None:
    assert {found.name: set(found.languages) for found in list_cards([])} == LANGUAGES


@pytest.mark.parametrize("name", sorted(set(LANGUAGES) - {"handbook"}))
def test_every_card_prompts_in_each_of_its_languages(name: str) -> None:
    for code in card(name).languages:
        prompt = card(name).template(code)
        assert prompt.endswith("\n")
        assert not re.search(r"[:：]\n\{", prompt), (
            "the paper's prompts have the text on the line of its label"
        )
        assert card(name).columns(code)
    assert card(name).obtain
    assert card(name).licence


def test_sizes_of_the_papers() -> None:
    def sizes(name: str, language: str) -> tuple[object, ...]:
        found = card(name).language(language).sizes
        return (found.train, found.dev, found.micro_dev, found.test)

    for name, english in (("xlsum", (10000, 1000, 0, 1000)), ("mlqa", (3030, 315, 0, 315))):  # GRASP Table 1
        assert sizes(name, "en") == english
        assert sizes(name, "ar") == sizes(name, "zh") == (50, 50, 16, 100)
    assert sizes("wikilingua", "ja") == ("all", 1264, 0, 2529)  # Miyano & Arase Table 1
    assert sizes("wikilingua", "en") == ("all", 13819, 0, 28607)
    assert sizes("scitldr", "en") == (50, 50, 16, "all")
    assert sizes("mimic_iii", "en") == (50, 50, 16, 10996)
    assert sizes("bloomberg_ja", "ja") == (50, 50, 16, 1207)
    assert sizes("nlp_titles_ja", "ja") == sizes("medical_titles_ja", "ja") == (50, 50, 16, 100)


def test_prompts_of_the_papers() -> None:
    assert card("xlsum").template("en") == "Summarize the following news article.\nArticle:{text}\nSummary:\n"
    assert card("mlqa").template("en") == (
        "Answer the question based on the context.\nContext:{context}\nQuestion:{question}\nAnswer:\n"
    )
    assert card("mimic_iii").template("en") == (
        "Summarize the following radiology report.\nFindings: {findings}\nImpression:\n"
    )
    assert [card("xlsum").new_tokens(code) for code in ("ar", "zh", "en")] == [128, 96, 96]
    assert card("mlqa").new_tokens("zh") == 64


def test_cards_name_metrics_that_there_are() -> None:
    from grasp_lora.metrics.scoring import METRICS

    assert {name for found in list_cards([]) for name in found.metrics} <= set(METRICS)


# A user's own cards


def write(path: Path, **values: Any) -> Path:
    path.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def test_a_card_extends_another_by_name_or_by_path(tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.yaml",
        extends="mlqa",
        name="a",
        licence="mine",
        languages={"hi": None, "en": {"sizes": {"test": 7}}},
    )
    second = load_card(write(tmp_path / "b.yaml", extends="a.yaml", name="b", prompt="{context}{question}"))
    assert set(load_card(first).languages) == LANGUAGES["mlqa"] - {"hi"}
    assert (second.name, second.licence, second.reader) == ("b", "mine", "squad")
    assert second.language("en").sizes == Sizes(train=3030, dev=315, micro_dev=0, test=7)
    assert second.template("de") == "{context}{question}"


def test_own_cards_come_before_the_built_in_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mlqa.yaml", extends="mlqa", name="mlqa", about="mine")
    write(tmp_path / "other.yaml", extends="jsonl", name="other")
    monkeypatch.setenv("GRASP_CARDS", str(tmp_path))
    assert [found.about for found in list_cards() if found.name == "mlqa"] == ["mine"]
    found = find_card("other")
    assert found is not None
    assert found.reader == "jsonl"
    monkeypatch.setenv("GRASP_CARDS", str(tmp_path / "nowhere"))
    with pytest.raises(
        GraspError, match=r"nowhere is not a folder of cards: correct --cards or \$GRASP_CARDS"
    ):
        card_folders()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"extends": "mlqa", "prompts": {}}, r"not a valid card:\n  prompts: Extra inputs"),
        ({"extends": "mlqa", "reader": "squads"}, r"unknown reader 'squads'; there are bloomberg, csv"),
        ({"extends": "mlqa", "options": {"x": 1}}, r"the reader squad has no option 'x'; it has none"),
        ({"extends": "mlqa", "body": "text"}, r"body is 'text', but the prompt template"),
        ({"extends": "mlqa", "prompt": "{context"}, r"is not valid"),
        (
            {"extends": "mlqa", "languages": {"en": {"sizes": {"test": "all"}}}},
            r"only train can have the size all",
        ),
        ({"extends": "mlqa", "languages": {"en": {"sizes": {"test": -1}}}}, r"languages.en.sizes.test"),
        ({"extends": "nothing"}, r"extends 'nothing', which is no other card"),
        ({"extends": "card"}, r"extends 'card', which is no other card"),
        ({"name": "x", "languages": {"en": {}}}, r"reader: Field required"),
        ({"extends": "mlqa", "name": "a/b"}, r"name: Value error, it names a folder"),
    ],
)
def test_bad_cards(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(GraspError, match=said):
        load_card(write(tmp_path / "card.yaml", **values), [tmp_path])


def test_cards_that_are_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_text("text")
    with pytest.raises(GraspError, match=r"a.yaml is not valid YAML"):
        load_card(tmp_path / "a.yaml")
    with pytest.raises(GraspError, match=r"b.yaml must be a mapping"):
        load_card(tmp_path / "b.yaml")


def test_a_loop_of_cards_ends(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", extends="b.yaml")
    write(tmp_path / "b.yaml", extends="a.yaml")
    with pytest.raises(GraspError, match="which is no other card"):
        load_card(tmp_path / "a.yaml")


# Which files


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("{language}_{split}.jsonl", "a/english_val.jsonl", ("en", "dev")),
        ("{language}_{split}.jsonl", "a/chinese_simplified_test.jsonl", ("zh", "test")),
        ("{language}_{split}.jsonl", "a/french_val.jsonl", None),
        ("{language}_{split}.jsonl", "a/xenglish_val.jsonl", None),
        ("{language}_{split}.jsonl", "a/english_val.jsonl.txt", None),
        ("{language}-{language}.json", "english-english.json", ("en", None)),
        ("{language}-{language}.json", "english-chinese_simplified.json", None),
        ("{language}/{split}.json", "x/english/validation.json", ("en", "dev")),
        ("*.{language}.json", "xquad.english.json", ("en", None)),
        ("*.html", "a/b.html", (None, None)),
        ("*.html", "a.html/b.txt", None),
    ],
)
def test_file_patterns(pattern: str, path: str, found: tuple[str | None, str | None] | None) -> None:
    names = {"en": "english", "zh": "chinese_simplified"}
    assert FilePatterns.compile([pattern], names).match(path) == found


@pytest.mark.parametrize(
    ("path", "found"), [("pt-BR.json", ("pt-BR", None)), ("train.json", None), ("dev.json", None)]
)
def test_any_language(path: str, found: tuple[str, None] | None) -> None:
    assert FilePatterns.compile(["{language}.json"], {}).match(path) == found


# Tables


def lines(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"Text {n}", "target": f"Target {n}", **more} for n in range(start, start + count)]


def test_one_table_per_language_is_split(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for language in ("en", "fr", "pt-BR"):
        (source / f"{language}.jsonl").write_bytes(json_lines(lines(300, language=language)))
    manifest = prepared(card("jsonl"), source, tmp_path / "out")
    assert manifest["counts"] == {
        "en": {"train": 150, "dev": 50, "test": 100},
        "fr": {"train": 50, "dev": 50, "micro_dev": 16, "test": 100, "pool": 84},
        "pt-BR": {"train": 50, "dev": 50, "micro_dev": 16, "test": 100, "pool": 84},
    }
    row = rows(tmp_path / "out", "fr", "test")[0]
    number = int(row["text"].removeprefix("Text "))
    assert row == {"id": f"fr/fr:{number + 1}", "text": f"Text {number}", "target": f"Target {number}"}


def test_official_splits_of_a_table_are_kept(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "dev", "test")):
        (tmp_path / "en").mkdir(exist_ok=True)
        (tmp_path / "en" / f"{split}.jsonl").write_bytes(json_lines(lines(6, 10 * i)))
    own = small(tmp_path, "jsonl", languages={"en": {"sizes": SMALL}})
    prepare_card(own, tmp_path, tmp_path / "out")
    assert {int(row["text"].split()[1]) // 10 for row in rows(tmp_path / "out", "en", "train")} == {0}
    assert {int(row["text"].split()[1]) // 10 for row in rows(tmp_path / "out", "en", "micro_dev")} == {1}
    assert {int(row["text"].split()[1]) // 10 for row in rows(tmp_path / "out", "en", "test")} == {2}


def test_csv_and_parquet_tables(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with (tmp_path / "en.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "target"])
        writer.writeheader()
        writer.writerows(lines(8))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines(8)), tmp_path / "en.parquet")
    (tmp_path / "en.jsonl").write_bytes(json_lines(lines(8)))
    found = []
    for kind in ("csv", "parquet", "jsonl"):
        own = small(tmp_path, kind, languages={"en": {"sizes": SMALL}})
        prepare_card(own, tmp_path, tmp_path / f"out-{kind}")
        found.append({row["text"] for row in rows(tmp_path / f"out-{kind}", "en", "train")})
    assert all(len(texts) == SMALL["train"] for texts in found)
    assert [row.values for row in parquet_rows(tmp_path / "en.parquet")] == lines(8)


def test_parquet_inside_an_archive(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet
    from tests.helpers.sources import tar_bz2

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines(8)), tmp_path / "x")
    source = tar_bz2(tmp_path / "data.tar.bz2", {"en.parquet": (tmp_path / "x").read_bytes()})
    own = small(tmp_path, "parquet", languages={"en": {"sizes": SMALL}})
    assert prepared(own, source, tmp_path / "out")["counts"] == {"en": SMALL}


def test_columns_ids_groups_and_references_of_a_table(tmp_path: Path) -> None:
    values = [
        {
            "nr": n,
            "document": n // 2,
            "body": f"Body {n}",
            "title": f"Title {n}",
            "all": [f"Title {n}", "other"],
        }
        for n in range(12)
    ]
    (tmp_path / "en.jsonl").write_bytes(json_lines(values))
    own = small(
        tmp_path,
        "jsonl",
        prompt="Shorten.\n{body}\n",
        target="title",
        references="all",
        options={"id": "nr", "group": "document"},
        languages={"en": {"sizes": SMALL}},
    )
    prepare_card(own, tmp_path, tmp_path / "out")
    owners: dict[int, str] = {}
    for split in SMALL:
        for row in rows(tmp_path / "out", "en", split):
            assert owners.setdefault(int(row["id"]) // 2, split) == split
    [example, *_] = load_task(tmp_path / "out").examples("en", "test")
    assert example.references == (f"Title {example.id}", "other")


def test_what_is_wrong_with_all_rows_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "en.csv").write_text("document,summary\n" + "a,b\n" * 30)
    with pytest.raises(GraspError) as caught:
        prepare_card(card("csv"), tmp_path / "en.csv", tmp_path / "out")
    first, advice = str(caught.value).splitlines()
    assert first == (
        f"{tmp_path}/en.csv: all 30 rows have the same fault: missing column: 'text'; "
        "there are document, summary"
    )
    assert "For other columns, prompts or sizes write a card that begins with `extends: csv`" in advice
    (tmp_path / "en.csv").write_text("text,target\n" + "a,\n" * 30)
    with pytest.raises(GraspError, match=r"all 30 rows have the same fault: .*'target' is empty$"):
        prepare_card(card("csv"), tmp_path / "en.csv", tmp_path / "out")
    (tmp_path / "en.csv").write_text("text,target\n" + "a,\n" * 3 + "a,b\n")
    with pytest.raises(GraspError, match=r"has 3 bad rows; correct or remove them:(\n.*en.csv:.*){3}$"):
        prepare_card(card("csv"), tmp_path / "en.csv", tmp_path / "out")


NAMED = {"en_train.jsonl": lines(9), "en_test.jsonl": lines(9, 20)}
REPEATED = {"en_train.jsonl": lines(9), "en_dev.jsonl": lines(9, 10), "en_test.jsonl": lines(9, 5)}
BLANK = [*lines(2), {"text": " ", "target": "x"}]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"en.jsonl": [{"text": "a"}]},
            r"1 bad row; .*\n.*en.jsonl:1: missing column: 'target'; there are text",
        ),
        ({"en.jsonl": BLANK}, r"en.jsonl:3: empty text: the column 'text' is empty"),
        ({"en.jsonl": [{"text": 3, "target": "x"}]}, r"missing column: 'text'; there are target"),
        (
            {"en.jsonl": [{"text": "a", "target": "HALF"}]},
            r"en.jsonl:1: not text: .* half of a surrogate pair",
        ),
        ({"en.jsonl": []}, r"no row of 'en' in .* can be used: its files are empty"),
        (NAMED | {"en.jsonl": lines(9, 40)}, r"some files of 'small-jsonl' say which split they are"),
        (REPEATED, r"the splits 'en train' and 'en test' share the example"),
        (NAMED, r"which leaves 0 for dev, and the card asks for 2"),
        ({"en.jsonl": lines(6)}, r"'en' has 6 rows, which leaves . for (train|dev|test), and the card asks"),
        ({"en.jsonl": lines(6)}, r"with a smaller `languages\.en\.sizes\.(train|dev|test)`"),
    ],
)
def test_bad_tables(tmp_path: Path, files: dict[str, list[Any]], said: str) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for name, values in files.items():
        (source / name).write_bytes(json_lines(values).replace(b"HALF", rb"\ud800"))
    own = small(
        tmp_path, "jsonl", languages={"en": {"sizes": {"train": 6, "dev": 2, "micro_dev": 1, "test": 6}}}
    )
    with pytest.raises(GraspError, match=said):
        prepare_card(own, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_language_without_a_prompt_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "fr.json").write_bytes(squad(8, "fr"))
    own = small(tmp_path, "squad_json", languages={"fr": {"sizes": SMALL}})
    with pytest.raises(
        GraspError, match=r"'small-squad_json' has no prompt in 'fr': write a card of your own"
    ):
        prepare_card(own, tmp_path, tmp_path / "out")


def test_a_users_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "en.jsonl").write_bytes(json_lines(lines(20)))
    own = small(tmp_path, "jsonl", languages={"en": {"sizes": SMALL}})
    assert prepare_card(own, tmp_path, tmp_path / "out") == prepare_card(own, tmp_path, tmp_path / "out")
    with pytest.raises(GraspError, match="is already there, with other contents"):
        prepare_card(own, tmp_path, tmp_path / "out", seed=7)


def test_a_config_may_name_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRASP_CACHE", str(tmp_path / "cache"))
    own = small(
        tmp_path, "xlsum", languages={"en": {"sizes": SMALL}, "ar": None, "zh": None, "ja": None}, name="own"
    )
    (tmp_path / "small-xlsum.yaml").rename(tmp_path / "own.yaml")
    monkeypatch.setenv("GRASP_CARDS", str(tmp_path))
    prepare_card(own, xlsum_archive(tmp_path))
    assert find_task("own").name == "own"


# Showing


def test_histogram_bars_are_proportional() -> None:
    text = histogram([1] * 8 + [5] * 4 + [8], bins=8)
    counts = [int(line.split()[-1]) for line in text.splitlines()]
    assert counts == [8, 0, 0, 0, 4, 0, 0, 1]
    bars = [line.count("█") for line in text.splitlines()]
    assert (bars[0], bars[4], bars[7]) == (40, 20, 5)
    assert histogram([3, 3]).split() == ["3-3", "█" * 40, "2"]


def test_script_mix_counts_letters() -> None:
    assert script_mix(["abcعع 12", "日"]) == {"LATIN": 0.5, "ARABIC": 2 / 6, "CJK": 1 / 6}
    assert script_mix(["12 !"]) == {}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "en.json").write_bytes(squad(8, "en"))
    (tmp_path / "ar.json").write_bytes(squad(8, "ar"))
    own = small(tmp_path, "squad_json", languages={code: {"sizes": SMALL} for code in ("en", "ar")})
    return prepare_card(own, tmp_path, tmp_path / "out")


def test_show_has_the_prompt_as_it_is_and_warns_of_the_wrong_script(folder: Path) -> None:
    text = show(folder)
    [example, *_] = load_task(folder).examples("en", "train")
    assert f"-- {example.id}\n{example.prompt}--> {example.target}\n" in text
    assert "== ar: 2 train, 2 dev, 1 micro_dev, 2 test\nleft out: 17 left over" in text
    assert "<- only 0% of the letters are ar's" in text
    assert "letters are en's" not in text
    assert " 0.0%" not in text
    assert "--tokenizer BACKBONE" in text


def test_show_counts_tokens_and_cuts_as_training_does(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    text = show(folder, tokenizer=tokenizer, encode=encode_prompt, max_length=164)
    examples = [e for split in SMALL for e in load_task(folder).examples("en", split)]
    over = sum(len(e.prompt) + 1 > 164 - 64 for e in examples)
    assert over == 7
    assert f"; {over} of 7 (100.0%) over 100 are cut" in text
    assert "answers in tokens: 10 to 10, median 10; 0 of 7 (0.0%) over 64" in text
    seen = tokenizer.decode(encode_prompt(examples[0], tokenizer, 100))
    assert seen.startswith("<bos>")
    assert f"\n{seen}--> " in text


def test_long_prompts_are_shown_in_part(tmp_path: Path) -> None:
    (tmp_path / "en.jsonl").write_bytes(
        json_lines([{"text": f"{n} " * 3000, "target": "x"} for n in range(8)])
    )
    out = prepare_card(
        small(tmp_path, "jsonl", languages={"en": {"sizes": SMALL}}), tmp_path, tmp_path / "out"
    )
    assert "characters; --full shows them ...]" in show(out)
    assert load_task(out).examples("en", "train")[0].prompt in show(out, full=True)


# The verbs


def test_data_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", extends="jsonl", name="mine", about="My own.")
    assert main(["data", "list", "--cards", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*LANGUAGES, "mine  ", "My own."])
    assert "from the hub (facebook/mlqa) or files; en, ar, zh, de, es, hi, vi; CC BY-SA 3.0" in printed


def test_data_prepare_and_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    (source / "en.json").write_bytes(squad(8, "en"))
    path = write(
        tmp_path / "mine.yaml", extends="squad_json", name="mine", languages={"en": {"sizes": SMALL}}
    )
    arguments = ["--from", str(source), "--out", str(tmp_path / "out"), "--seed", "3", "--languages", "en"]
    assert main(["data", "prepare", str(path), *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(tmp_path / "out")
    assert f"grasp data show {tmp_path / 'out'}" in printed.err
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]["seed"] == 3
    assert main(["data", "show", str(tmp_path / "out"), "--examples", "2"]) == 0
    assert capsys.readouterr().out.count("Answer the question based on the context.") == 2


def test_the_documented_card(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cards.md").read_text(encoding="utf-8")
    [own], [commands] = (re.findall(rf"```{kind}\n(.*?)```", text, flags=re.S) for kind in ("yaml", "sh"))
    monkeypatch.chdir(tmp_path)
    Path("reviews.yaml").write_text(own, encoding="utf-8")
    Path("reviews").mkdir()
    for code, count in (("en", 100), ("fr", 118)):  # no row more than the sizes add up to
        table = "".join(f"Review {n},Headline {n}\n" for n in range(count))
        Path("reviews", f"{code}.csv").write_text(f"review,headline\n{table}")
    for command in commands.splitlines():
        assert main(shlex.split(command)[1:]) == 0
    assert "== fr: 50 train, 20 dev, 8 micro_dev, 40 test" in capsys.readouterr().out
    task = load_task(Path("prepared"))
    assert [len(task.examples("en", split)) for split in task.languages["en"]] == [40, 20, 40]
    assert task.examples("fr", "test")[0].prompt.startswith("Write a headline for this review.\nReview ")


@pytest.mark.parametrize("kind", ["folder", "card", "inline"])
def test_show_takes_the_config_of_a_run(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_tokenizer().save_pretrained("backbone")
    tokens: Any = {"tokenizer": tiny_tokenizer(), "encode": encode_prompt}
    expected = show(folder, **tokens, max_length=164, max_new_tokens=40)
    assert expected != show(folder, **tokens, max_length=164)
    config: dict[str, Any] = {"name": "x", "backbone": "backbone", "max_length": 164, "max_new_tokens": 40}
    config |= {"source": {"language": "en"}, "target": {"language": "ar"}, "task": "./out"}
    if kind == "card":
        monkeypatch.setenv("GRASP_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("GRASP_CARDS", str(tmp_path))
        prepare_card(load_card(tmp_path / "small-squad_json.yaml"), tmp_path)
        config["task"] = "small-squad_json"
    if kind == "inline":  # relative to the config; no manifest is beside it; each language has its limit
        values = yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8"))
        values["languages"] = {
            code: {split: f"../out/{path}" for split, path in splits.items()}
            for code, splits in values["languages"].items()
        }
        config |= {"task": values | {"max_new_tokens": {"en": 40, "ar": 40}}, "max_new_tokens": None}
        expected = re.sub(r"\nleft out: .*", "", expected)
    Path("configs").mkdir()
    write(Path("configs/run.yaml"), **config)
    write(Path("configs/more.yaml"), extends="run.yaml", name="more")
    for name in ("run", "more"):
        assert main(["data", "show", f"configs/{name}.yaml"]) == 0
        assert capsys.readouterr().out == expected
    assert main(["data", "show", "configs/run.yaml", "--max-length", "150"]) == 0
    assert "over 110 are cut" in capsys.readouterr().out
    assert main(["data", "show", "configs/run.yaml", "max_length=150"]) == 0
    assert "over 110 are cut" in capsys.readouterr().out
    assert main(["data", "show", "configs/run.yaml", "--tokenizer", ""]) == 0
    assert "prompts in characters" in capsys.readouterr().out


def test_show_says_what_is_wrong_with_a_config(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config: dict[str, Any] = {"name": "x", "backbone": "nowhere", "task": str(folder)}
    config |= {"source": {"language": "en"}, "target": {"language": "fr"}}
    for changes, said in (
        ({}, "has no language 'fr'; it has en, ar"),
        ({"target": {"language": "ar"}}, "cannot load the tokenizer of 'nowhere'"),
        ({"targets": {}}, "run.yaml is not a valid config:\n  targets: unknown key"),
        ({"task": "nothing"}, "task 'nothing' is neither a built-in task"),
    ):
        path = write(tmp_path / "run.yaml", **config | changes)
        assert main(["data", "show", str(path)]) == 2
        assert said in capsys.readouterr().err
    own = write(tmp_path / "own.yaml", extends="csv", name="own", languages={"en": {}})
    assert main(["data", "show", str(own)]) == 2
    assert "own.yaml is not a valid task" in capsys.readouterr().err  # a card is neither
    assert main(["data", "show", str(folder), "max_length=9"]) == 2
    assert "is no run's config: it takes no max_length=9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["prepare", "mlqq"],
            "'mlqq' is neither a card (a .yaml file) nor one of the tasks: bloomberg_ja, csv,",
        ),
        (["prepare", "jsonl"], "the task 'jsonl' is made from files: Give a folder with LANGUAGE.jsonl"),
        (["prepare", "mimic_iii"], "credentialed account at https://physionet.org"),
        (["show", "nowhere"], "nowhere does not exist: give a task file or a folder with a task.yaml"),
        (["list", "--cards", "nowhere"], "nowhere is not a folder of cards"),
    ],
)
def test_bad_input_is_one_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["data", *arguments]) == 2
    assert said in capsys.readouterr().err
