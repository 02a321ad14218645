"""Rows that are many are read as they are asked for, and are the same rows."""

import random
import resource
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.test_tasks import jsonl, task

from grasp_lora.errors import GraspError
from grasp_lora.tasks import kept, lazy
from grasp_lora.tasks.example import Example, examples_digest
from grasp_lora.tasks.kept import keep
from grasp_lora.tasks.lazy import Lazy, joined, mapped, picked
from grasp_lora.tasks.task import check_disjoint

# "\u2028" ends a line for some readers, and a name may be any character.
ROWS = [
    {"key": f"r{i}", "text": f"Rain {i}\u2028 سطر {{", "summary": f"s{i}", "g": f"g{i % 3}"}
    for i in range(40)
]
texts = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture
def many(monkeypatch):
    """As if any number of rows were many."""
    monkeypatch.setattr(kept, "IN_MEMORY", -1)
    monkeypatch.setattr(lazy, "FEW", -1)


@given(
    st.lists(st.builds(Example, texts, texts, texts, st.lists(texts).map(tuple), st.none() | st.just((1, 2))))
)
def test_what_is_read_from_the_file_is_what_was_put_there(examples: list[Example]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "IN_MEMORY", -1)
        found = keep(examples)
    assert isinstance(found, Lazy) or not examples
    assert list(found) == examples
    assert examples_digest(found) == examples_digest(examples)
    assert [found[i] for i in reversed(range(len(found)))] == examples[::-1]


def test_a_digest_is_of_the_json_list_of_all() -> None:
    # printf '[["1", "p", "t", ["r"], [0, 1], "g"], ["2", "p", "t", [], null, ""]]' | sha256sum
    two = [Example("1", "p", "t", ("r",), (0, 1), "g"), Example("2", "p", "t")]
    assert examples_digest(two) == "9eec87d7abd7e98d7099df07b497c2a7b4165f09d440ca9a303d0a307b1c9dd9"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
@pytest.mark.parametrize("limit", [None, 7])
def test_many_rows_are_those_of_a_list(tmp_path, monkeypatch, name, limit):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    jsonl(tmp_path / "rows.jsonl", *ROWS)
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    lines = [",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    where = task(tmp_path, languages={"en": {"train": name}}, id="key", group="g")
    as_list = where.examples("en", "train", limit)
    monkeypatch.setattr(kept, "IN_MEMORY", -1)
    found = where.examples("en", "train", limit)
    assert isinstance(as_list, list)
    assert isinstance(found, Lazy)
    assert len(as_list) == (limit or 40)
    assert list(found) == as_list


@pytest.mark.parametrize(
    "changes",
    [
        {5: {"key": "r2"}, 9: {"key": "r2"}, 30: {"key": "r29"}},
        {0: {"summary": " "}, 39: {"text": None}, 20: {"key": "r3"}},
        {0: {"text": 0.5}, 7: {"text": [1]}, **{i: {"summary": ""} for i in range(10, 20)}},
        {i: {"summary": ""} for i in range(40)},
        {i: {"key": "same"} for i in range(40)},
    ],
)
def test_bad_rows_are_named_alike(tmp_path, monkeypatch, changes: dict[int, dict[str, Any]]):
    jsonl(tmp_path / "train.jsonl", *(row | changes.get(i, {}) for i, row in enumerate(ROWS)))
    said = []
    for characters in (kept.IN_MEMORY, 60, -1):  # a list, one that becomes a file on the way, a file
        monkeypatch.setattr(kept, "IN_MEMORY", characters)
        with pytest.raises(GraspError) as caught:
            task(tmp_path, id="key").examples("en", "train")
        said.append(str(caught.value))
    assert len(set(said)) == 1
    assert "train.jsonl:" in said[0]


def test_an_id_is_named_with_the_line_that_had_it_first(tmp_path, many):
    jsonl(tmp_path / "train.jsonl", *ROWS[:3], ROWS[1], ROWS[1])
    with pytest.raises(GraspError) as caught:
        task(tmp_path, id="key").examples("en", "train")
    assert [line.split(".jsonl:")[1] for line in str(caught.value).splitlines()[1:]] == [
        "4: the id 'r1' was already used in line 2",
        "5: the id 'r1' was already used in line 2",
    ]


def test_rows_stay_what_they_were_when_their_file_changes(tmp_path, many):
    path = jsonl(tmp_path / "train.jsonl", *ROWS)
    found = task(tmp_path).examples("en", "train")
    before = examples_digest(found)
    path.write_text("gone")
    assert examples_digest(found) == before


def test_a_full_disk_is_said(many):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes of any file
    try:
        with pytest.raises(GraspError, match=r"cannot be kept in .*too large.*GRASP_CACHE"):
            keep([Example("1", "p" * 2000, "t")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Sequences


@given(st.lists(st.integers(), max_size=9), st.lists(st.integers(), max_size=9), st.data())
def test_a_lazy_sequence_is_like_a_list(one: list[int], other: list[int], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "FEW", -1)
        first, second = (Lazy(len(items), items.__getitem__) for items in (one, other))
        both = joined(first, second, [7])
        assert list(both) == [*one, *other, 7]
        assert both[-1] == 7
        with pytest.raises(IndexError):
            both[len(both)]
        part = data.draw(st.slices(len(both)))
        assert list(both[part]) == [*one, *other, 7][part]
        assert list(mapped(first, str)) == list(map(str, one))
        assert random.Random(3).sample(both, len(both)) == random.Random(3).sample([*both], len(both))
        assert list(picked(both, [len(both) - 1, 0])) == [7, both[0]]


def test_few_items_are_a_list() -> None:
    found = Lazy(5000, str)
    assert isinstance(found[:4000], Lazy)
    assert found[4998:] == ["4998", "4999"]
    assert joined([1], [2]) == [1, 2]


# Splits that share nothing


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_what_splits_share_is_found_as_by_remembering_everything(rows: list[tuple[str, int, int]]) -> None:
    splits: dict[str, list[Example]] = {"a": [], "b": [], "c": []}
    for split, name, text in rows:
        splits[split].append(Example(str(name), f"{text}\n", "t"))
    said = ""
    try:
        check_disjoint(splits)
    except GraspError as error:
        said = str(error)
    assert said.startswith(first_shared(splits))
    assert bool(said) == bool(first_shared(splits))


def first_shared(splits: dict[str, list[Example]]) -> str:
    """What an error about them begins with, remembering everything; empty where nothing is shared."""
    owners: dict[tuple[str, ...], str] = {}
    for name, examples in splits.items():
        for example in examples:
            for key in (("id", example.id), ("text", example.prompt, example.target)):
                if (owner := owners.setdefault(key, name)) != name:
                    return f"the splits '{owner}' and '{name}' share the example '{example.id}'"
    return ""


def test_the_largest_split_is_named_as_any_other() -> None:
    large = [Example(str(i), f"{i}\n", "t") for i in range(9)]
    small = [Example("x", "4\n", "t")]
    with pytest.raises(GraspError, match=r"'train' and 'dev' share the example 'x' \(same text as '4'\)"):
        check_disjoint({"train": large, "dev": small})
    with pytest.raises(GraspError, match=r"'dev' and 'train' share the example '4' \(same text as 'x'\)"):
        check_disjoint({"dev": small, "train": large})
