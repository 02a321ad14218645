"""Prompts, task files and what is said about bad rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_lora.data.find import find_task
from grasp_lora.errors import GraspError
from grasp_lora.tasks.example import Example, prompt_hash
from grasp_lora.tasks.files import Faults, read_rows
from grasp_lora.tasks.prompt import parse_template
from grasp_lora.tasks.task import Task, check_disjoint, load_task

TASK: dict[str, Any] = {
    "name": "news",
    "prompt": "Summarise.\n\n{text}\n\nSummary:",
    "target": "summary",
    "languages": {"en": {"train": "train.jsonl"}},
}
GOOD = {"text": "Rain fell.", "summary": "Rain"}


def task(folder: Path, **changes: Any) -> Task:
    return Task.model_validate(TASK | changes).resolved(folder)


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# Prompts


@given(st.text(), st.text())
def test_values_are_put_in_as_they_are(title: str, text: str) -> None:
    template = parse_template("{title}|{text}| {{x}}\n", body="text")
    prompt, (start, stop) = template.render({"title": title, "text": text, "unused": "{title}"})
    assert prompt == f"{title}|{text}| {{x}}\n"
    assert (prompt[:start], prompt[start:stop]) == (f"{title}|", text)


def test_a_prompts_hash_is_the_start_of_its_sha256() -> None:
    assert prompt_hash("abc") == "ba7816bf8f01cfea"  # FIPS 180-4's example
    assert prompt_hash("لخص\n") == "2d7813d36bf47de8"  # in UTF-8


@pytest.mark.parametrize(
    ("template", "end"),
    [
        ("{a}\nTitle:", "Title:\n"),
        ("{a}\nTitle: ", "Title:\n"),
        ("{a}\nTitle:\n", "Title:\n"),
        ("{a}\n\n", "a\n\n"),
    ],
)
def test_a_prompt_ends_in_a_newline(template: str, end: str) -> None:
    prompt, _ = parse_template(template).render({"a": "a"})
    assert prompt.endswith(end)


def test_the_body_is_the_first_field_and_its_first_use() -> None:
    template = parse_template("Q: {question} {context} {question}")
    assert (template.body, template.fields) == ("question", ("question", "context"))
    prompt, span = template.render({"question": "why", "context": "c"})
    assert (prompt, span) == ("Q: why c why\n", (3, 6))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{text", "not valid"),
        ("{}", "not a plain"),
        ("{text!r}", "not a plain"),
        ("{text:>9}", "not a plain"),
        ("Write {{text}}.", "has no {field}"),
    ],
)
def test_bad_templates(template: str, said: str) -> None:
    with pytest.raises(GraspError, match=said):
        parse_template(template)


def test_an_unknown_field_names_the_template_and_the_columns(tmp_path: Path) -> None:
    with pytest.raises(GraspError, match=r"\{body\}.*columns are text, summary"):
        parse_template("{body}").render(GOOD)
    jsonl(tmp_path / "train.jsonl", GOOD)
    with pytest.raises(GraspError, match=r"no column 'body'.*\{body\}.*its columns are text, summary"):
        task(tmp_path, prompt="{body}").examples("en", "train")


# Files


def test_the_three_kinds_of_files_give_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"text": 'a\n"b", ç', "summary": "سطر"}, {"text": " c", "summary": "d"}]
    jsonl(tmp_path / "a.jsonl", *rows)
    (tmp_path / "b.csv").write_bytes('\ufefftext,summary\r\n"a\n""b"", ç",سطر\r\n c,d\r\n'.encode())
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.csv", "c.parquet"):
        faults = Faults(tmp_path / name)
        assert [row.values for row in read_rows(tmp_path / name, faults)] == rows, name
        faults.check()


def test_bad_json_lines_are_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [
        json.dumps(GOOD).encode(),
        b'{"text": "x"}',
        b'{"text": "x", "summary": "  "}',
        b'{"text": "\xe9", "summary": "y"}',
        b"",
        b'{"text": ',
        b'["text"]',
        b'{"text": ["x"], "summary": "y"}',
        b'{"text": "\\ud800", "summary": "y"}',
    ]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(GraspError) as caught:
        task(tmp_path).examples("en", "train")
    message = str(caught.value)
    assert "7 bad rows" in message
    assert "and 2 more" in message
    for line, why in [(2, "'summary' is missing"), (3, "'summary' is empty"), (4, "not UTF-8 (byte 11")]:
        assert f"{path}:{line}: " in message
        assert why in message
    assert f"{path}:6: not valid JSON (Expecting value: character 9 of the line)" in message
    assert f"{path}:7: a JSON list" in message
    assert f"{path}:8:" not in message
    path.write_bytes(b"\n".join([*(lines[i] for i in (0, 7, 8)), b'{"text": null, "summary": "y"}']))
    named = r"(?s):2: the column 'text' is a list.*:3: .*surrogate.*:4: the column 'text' has no value"
    with pytest.raises(GraspError, match=named):
        task(tmp_path).examples("en", "train")


def test_bad_csv_rows_are_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(b'text,summary\n"two\nlines",ok\nx\n"not \xff\nutf-8",y\na,b,c\ngood,row\nz,\n"open,x\n')
    with pytest.raises(GraspError) as caught:
        task(tmp_path, languages={"en": {"train": "train.csv"}}).examples("en", "train")
    listed = str(caught.value).splitlines()[1:]
    whys = ["1 fields", "not UTF-8", "3 fields", "'summary' is empty", "not valid CSV"]
    assert [line.strip().split(": ")[0] for line in listed] == [f"{path}:{n}" for n in (4, 5, 7, 9, 10)]
    assert all(why in line for why, line in zip(whys, listed, strict=True))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_fields_that_no_commas_separate(tmp_path: Path, separator: str) -> None:
    (tmp_path / "train.csv").write_text(f"text{separator}summary\na{separator}b\n")
    with pytest.raises(
        GraspError, match=r"train\.csv:1: the header is one column.*commas between its fields"
    ):
        task(tmp_path, languages={"en": {"train": "train.csv"}}).examples("en", "train")


def test_a_field_of_a_csv_file_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text(f"text,summary\n{'x' * 200_000},y\n")
    [example] = task(tmp_path, languages={"en": {"test": "long.csv"}}).examples("en", "test")
    assert example.prompt.count("x") == 200_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"x", r"a\.txt: unknown kind of file '\.txt'; known are \.csv"),
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"\n\n", "a.jsonl has no rows"),
        ("a.csv", b"text,summary\n", "a.csv has no rows"),
        ("a.csv", b"text,text\nx,y\n", "a.csv:1: the header must name each column once"),
        ("a.csv", "text,summary\nx,y\n".encode("utf-16"), "a.csv:1: not UTF-8"),
        ("a.parquet", b"PAR1 and then nothing", "a.parquet: not a readable Parquet file"),
        ("a.jsonl", None, "a.jsonl does not exist"),
    ],
)
def test_files_that_are_no_data(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GraspError, match=said):
        task(tmp_path, languages={"en": {"train": name}}).examples("en", "train")


# Tasks


def test_rows_become_examples(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", GOOD, {"text": "Sun {shone}.", "summary": " Sun\n", "n": 7})
    first, second = task(tmp_path).examples("en", "train")
    assert second.target == "Sun"
    assert second.prompt == "Summarise.\n\nSun {shone}.\n\nSummary:\n"
    assert second.body is not None
    assert second.prompt[slice(*second.body)] == "Sun {shone}."
    assert (first.id, second.id) == ("en/train:1", "en/train:2")
    assert task(tmp_path).examples("en", "train", limit=1) == [first]


def test_ids_and_references_come_from_columns(tmp_path: Path) -> None:
    row = {"text": "t", "summary": "s", "key": 7, "refs": ["s", " other "]}
    jsonl(tmp_path / "train.jsonl", row)
    [example] = task(tmp_path, id="key", references="refs").examples("en", "train")
    assert (example.id, example.references) == ("7", ("s", "other"))
    jsonl(tmp_path / "train.jsonl", row, row | {"refs": "none"}, row | {"refs": []})
    with pytest.raises(GraspError, match=r"(?s):2: .*'refs' is not a JSON list.*:3: .*'refs' is not a list"):
        task(tmp_path, id="key", references="refs").examples("en", "train")
    jsonl(tmp_path / "train.jsonl", row, row)
    with pytest.raises(GraspError, match=r":2: the id '7' was already used in line 1"):
        task(tmp_path, id="key").examples("en", "train")


def test_prompts_and_limits_per_language(tmp_path: Path) -> None:
    for language in ("en", "ar"):
        jsonl(tmp_path / f"{language}.jsonl", GOOD)
    many = task(
        tmp_path,
        prompt={"en": "{text}\nSummary:", "ar": "{text}\nملخص:"},
        max_new_tokens={"en": 96, "ar": 128},
        languages={"en": {"train": "en.jsonl"}, "ar": {"train": "ar.jsonl"}},
    )
    assert many.examples("ar", "train")[0].prompt == "Rain fell.\nملخص:\n"
    assert (many.new_tokens("ar"), task(tmp_path).new_tokens("en")) == (128, 64)


@pytest.mark.parametrize(
    ("language", "split", "said"),
    [
        ("de", "train", "no language 'de'; it has en"),
        ("en", "micro_dev", "no 'micro_dev' split.*it has train"),
    ],
)
def test_missing_languages_and_splits(tmp_path: Path, language: str, split: str, said: str) -> None:
    with pytest.raises(GraspError, match=said):
        task(tmp_path).examples(language, split)


def test_a_task_file_finds_its_data_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "news"
    (folder / "en").mkdir(parents=True)
    jsonl(folder / "en" / "train.jsonl", GOOD)
    values = TASK | {"languages": {"en": {"train": "en/train.jsonl"}}}
    (folder / "task.yaml").write_text(json.dumps(values))
    monkeypatch.chdir(tmp_path)
    examples = load_task(folder).examples("en", "train")
    assert [example.target for example in examples] == ["Rain"]
    assert load_task(folder / "task.yaml") == load_task(folder) == find_task("news")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "is not valid YAML"),
        ("- a", "must be a mapping"),
        ("name: x", r"(?s)not a valid task:.*prompt: Field required.*languages: Field required"),
        (json.dumps(TASK | {"promt": "x"}), "promt: Extra inputs"),
        (json.dumps(TASK | {"body": "article"}), r"body is 'article'.*only \{text\}"),
        (json.dumps(TASK | {"prompt": {"ar": "{text}"}}), "prompt has no entry for en"),
        (json.dumps(TASK | {"languages": {"en": {"valid": "a.csv"}}}), "languages.en.valid"),
        (json.dumps(TASK | {"max_new_tokens": 0}), "max_new_tokens"),
    ],
)
def test_bad_task_files(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(GraspError, match=said):
        load_task(tmp_path)


def test_a_task_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(GraspError, match=r"task\.yaml does not exist"):
        load_task(tmp_path)
    with pytest.raises(GraspError, match=r"neither a built-in task \(.*handbook"):
        find_task(str(tmp_path / "nowhere"))


def test_splits_that_share_an_example_are_named() -> None:
    a, b = Example("1", "p\n", "t"), Example("2", "q\n", "t")
    check_disjoint({"train": [a, a], "dev": [b], "test": [Example("3", "p\n", "u")]})
    with pytest.raises(GraspError, match=r"'train' and 'test' share the example '1' \(same id\)"):
        check_disjoint({"train": [a], "dev": [b], "test": [Example("1", "other\n", "t")]})
    with pytest.raises(GraspError, match=r"'dev' and 'test' share the example '4' \(same text as '2'\)"):
        check_disjoint({"train": [a], "dev": [b], "test": [Example("4", "q\n", "t")]})


def test_parquet_with_text_that_is_no_utf8(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.table({"text": ["Target 1"]}), tmp_path / "x.parquet", compression=None
    )
    content = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content.replace(b"Target", b"Tar\xe7et"))
    with pytest.raises(GraspError, match="not a readable Parquet file after row 0"):
        list(read_rows(tmp_path / "x.parquet", Faults(tmp_path / "x.parquet")))
