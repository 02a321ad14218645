"""SQuAD JSON, MLQA's archive, and that no paragraph is in two splits in any language."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.sources import SMALL, all_rows, mlqa_zip, prepared, rows, small, squad, zipped

from grasp_lora.data.card import Sizes
from grasp_lora.data.corpus import Item
from grasp_lora.data.prepare import prepare_card
from grasp_lora.data.sampling import sample_pool
from grasp_lora.errors import GraspError
from grasp_lora.tasks.example import groups_of
from grasp_lora.tasks.kept import Pile
from grasp_lora.tasks.task import load_task

TEXTS = Pile()  # which sampling does not look at
ENGLISH = {"train": 4, "dev": 3, "micro_dev": 0, "test": 3}
QA = {"en": {"sizes": ENGLISH}, "ar": {"sizes": SMALL}, "zh": {"sizes": SMALL}}


def paragraphs_by_split(folder: Path) -> dict[str, set[str]]:
    """Split -> numbers of the paragraphs in it, in any language."""
    return {
        split: {row["context"].split()[2] for found in languages.values() for row in found}
        for split, languages in all_rows(folder).items()
    }


def assert_disjoint(folder: Path) -> None:
    found = paragraphs_by_split(folder)
    for split, numbers in found.items():
        others = set().union(*(found[other] for other in found if other != split))
        assert not numbers & others, split


def test_mlqa_is_pooled_and_split_by_paragraph_in_all_languages(tmp_path: Path) -> None:
    archive = mlqa_zip(tmp_path / "MLQA_V1.zip", ("en", "ar", "zh"))
    manifest = prepared(small(tmp_path, "mlqa", languages=QA), archive, tmp_path / "out")
    assert manifest["counts"] == {
        "en": {"train": 4, "dev": 3, "test": 3},
        "ar": dict(SMALL),
        "zh": dict(SMALL),
    }
    assert manifest["inputs"]["origins"][0]["file"] == "MLQA_V1.zip"
    assert manifest["dropped"] == {"en": {"left over": 35}, "ar": {"left over": 38}, "zh": {"left over": 38}}
    assert_disjoint(tmp_path / "out")
    [example, *_] = load_task(tmp_path / "out").examples("ar", "train")
    assert example.prompt.startswith("أجب عن السؤال بناءً على السياق.\nالسياق:ar paragraph")
    assert example.prompt.endswith("\nالإجابة:\n")
    assert example.references == (example.target,)
    assert example.target in example.prompt


def test_questions_about_one_paragraph_are_one_group(tmp_path: Path) -> None:
    prepared(
        small(tmp_path, "mlqa", languages=QA),
        mlqa_zip(tmp_path / "a.zip", ("en", "ar", "zh")),
        tmp_path / "out",
    )
    task = load_task(tmp_path / "out")
    examples = [example for split in SMALL for example in task.examples("ar", split)]
    by_group: dict[str, set[str]] = {}
    for example in examples:
        by_group.setdefault(example.group, set()).add(example.prompt.split("ar paragraph ")[1].split()[0])
    assert all(group.startswith("paragraph ") for group in by_group)
    assert all(len(numbers) == 1 for numbers in by_group.values())
    assert len(by_group) == len(set[str]().union(*by_group.values()))
    assert groups_of(examples) == [example.group for example in examples]


def test_the_unpacked_archive_gives_the_same(tmp_path: Path) -> None:
    for split, start, count in (("dev", 0, 3), ("test", 3, 12)):
        folder = tmp_path / "MLQA_V1" / split
        folder.mkdir(parents=True)
        for language in ("en", "ar", "zh"):
            name = f"{split}-context-{language}-question-{language}.json"
            (folder / name).write_bytes(squad(count, language, start=start))
    card = small(tmp_path, "mlqa", languages=QA)
    prepare_card(card, tmp_path / "MLQA_V1", tmp_path / "a")
    prepare_card(card, mlqa_zip(tmp_path / "MLQA_V1.zip", ("en", "ar", "zh")), tmp_path / "b")
    assert all_rows(tmp_path / "a") == all_rows(tmp_path / "b")


def test_squad_files_are_known_by_their_names(tmp_path: Path) -> None:
    source = tmp_path / "xquad"
    source.mkdir()
    for language in ("en", "ar"):
        (source / f"xquad.{language}.json").write_bytes(squad(12, language))
    (source / "LICENSE.json.txt").write_text("not data")
    card = small(
        tmp_path,
        "squad_json",
        languages={"en": {"sizes": ENGLISH | {"train": "all"}}, "ar": {"sizes": SMALL}},
    )
    manifest = prepared(card, source, tmp_path / "out")
    assert list(manifest["counts"]) == ["en", "ar"]
    assert_disjoint(tmp_path / "out")
    english = rows(tmp_path / "out", "en", "train")
    held_out = {
        number
        for split, found in paragraphs_by_split(tmp_path / "out").items()
        if split != "train"
        for number in found
    }
    assert {row["context"].split()[2] for row in english} == {str(n) for n in range(12)} - held_out
    assert len(english) == 3 * (12 - len(held_out))


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    archive = mlqa_zip(tmp_path / "MLQA_V1.zip", ("en", "ar", "zh"))
    card = small(tmp_path, "mlqa", languages=QA)
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_card(card, archive, tmp_path / out, seed=seed)
    assert all_rows(tmp_path / "a") == all_rows(tmp_path / "b") != all_rows(tmp_path / "c")


def test_languages_can_be_chosen(tmp_path: Path) -> None:
    archive = mlqa_zip(tmp_path / "MLQA_V1.zip", ("en", "ar"))
    card = small(tmp_path, "mlqa", languages=QA)
    manifest = prepared(card, archive, tmp_path / "out", languages=["ar"])
    assert list(manifest["counts"]) == ["ar"]
    with pytest.raises(GraspError, match=r"no rows of 'small-mlqa' in zh; files are named"):
        prepare_card(card, archive, tmp_path / "other", languages=["ar", "zh"])
    with pytest.raises(GraspError, match=r"no language 'fr'; it has en, ar, zh"):
        prepare_card(card, archive, tmp_path / "other", languages=["fr"])


def answer(content: Any, text: str) -> Any:
    content["data"][1]["paragraphs"][0]["qas"][0]["answers"][0]["text"] = text
    return content


def rename(content: Any, name: str) -> Any:
    content["data"][1]["paragraphs"][0]["qas"][0]["id"] = name
    return content


CUT = {"data": [{"paragraphs": [{"qas": []}]}, {"paragraphs": 3}]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: answer(c, "nowhere"), r"en.json:4: answer not in its context: question 'q1.0', 'nowhere'"),
        (lambda c: answer(c, " "), r"no answer: question 'q1.0'"),
        (lambda c: rename(c, "q0.0"), r"id used twice: 'q0.0', first for another row in .*en.json:1"),
        (lambda c: c["data"], r"en.json is not SQuAD JSON"),
        (lambda c: CUT, r"en.json is not SQuAD JSON \(after question 0"),
        (lambda c: {"data": c["data"][:1]}, r"'en' has 3 rows, .* for (dev|test|train), and the card asks"),
    ],
)
def test_what_is_said_of_bad_questions(tmp_path: Path, change: Callable[[Any], Any], said: str) -> None:
    refused(tmp_path, squad(4, "en", change=change), said)


LATIN_1 = squad(4, "en").decode().replace("says", "säys").encode("latin-1")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (squad(4, "en")[:-9], r"en.json is not valid JSON"),
        (LATIN_1, r"en.json is not UTF-8 \(byte 96\): save it as UTF-8"),
        (b"", r"en.json is not valid JSON"),
        (b"[" * 100_000, r"en.json is not valid JSON"),
    ],
)
def test_what_is_said_of_bad_files(tmp_path: Path, content: bytes, said: str) -> None:
    refused(tmp_path, content, said)


def refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "en.json").write_bytes(content)
    with pytest.raises(GraspError, match=said):
        prepare_card(small(tmp_path, "squad_json"), tmp_path, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"en.json", "small-squad_json.yaml"}


def test_a_card_may_drop_bad_rows_and_counts_them(tmp_path: Path) -> None:
    name = "dev-context-en-question-en.json"
    source = zipped(tmp_path / "x.zip", {name: squad(8, "en", change=lambda c: answer(c, "nowhere"))})
    card = small(tmp_path, "mlqa")
    assert card.bad_rows == "drop"
    assert prepared(card, source, tmp_path / "out")["dropped"]["en"] == {
        "answer not in its context": 1,
        "left over": 16,
    }


def test_all_right_answers_are_references(tmp_path: Path) -> None:
    def two(content: Any) -> Any:
        for paragraph in (p for article in content["data"] for p in article["paragraphs"]):
            for question in paragraph["qas"]:
                question["answers"] += [{"text": "paragraph", "answer_start": 3}, question["answers"][0]]
        return content

    (tmp_path / "en.json").write_bytes(squad(8, "en", change=two))
    prepare_card(small(tmp_path, "squad_json"), tmp_path, tmp_path / "out")
    [example, *_] = load_task(tmp_path / "out").examples("en", "test")
    assert example.references == (example.target, "paragraph")


def test_without_a_source_it_says_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(
        GraspError, match=r"is made from files: Give a folder or archive with one file per language"
    ):
        prepare_card(small(tmp_path, "squad_json"), None, tmp_path / "out")


# The pool


def item(name, groups):
    return Item(name, groups, None, Path("a.json"), 1, TEXTS, 0)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, dict[str, Item]]:
    """Languages that share paragraphs, each question with its paragraph's group."""
    items: dict[str, dict[str, Item]] = {}
    for language in draw(st.sampled_from([("en",), ("en", "ar"), ("en", "ar", "zh", "de")])):
        items[language] = {}
        for paragraph in draw(st.sets(st.integers(0, 60), min_size=20, max_size=50)):
            for question in range(draw(st.integers(1, 3))):
                name = f"{paragraph}.{question}"
                groups = (f"question {name}", f"paragraph {language} {paragraph}")
                items[language][name] = item(name, groups)
    return items


@given(pools(), st.integers(0, 5))
def test_a_pool_never_leaks(items: dict[str, dict[str, Item]], seed: int) -> None:
    sizes = {
        language: Sizes(train="all" if language == "en" else 3, dev=3, micro_dev=2, test=4, pool=9)
        for language in items
    }
    try:
        chosen = sample_pool(items, sizes, seed)
    except GraspError:  # too few paragraphs for these sizes
        return
    owners: dict[str, str] = {}
    for language, splits in chosen.items():
        for split, names in splits.items():
            wanted = getattr(sizes[language], split)
            assert wanted == "all" or len(names) == wanted or (split == "pool" and len(names) < wanted)
            assert len(set(names)) == len(names)
            for name in names:
                use = "train" if split == "pool" else split  # both are trained on
                assert owners.setdefault(name.split(".")[0], use) == use
        assert not {*splits["train"]} & {*splits.get("pool", ())}
    assert chosen == sample_pool({k: dict(reversed(v.items())) for k, v in items.items()}, sizes, seed)


def test_languages_share_what_they_hold_out() -> None:
    """Parallel languages take the same paragraphs, so that the source keeps the most for training."""
    names = [f"{paragraph}.{question}" for paragraph in range(100) for question in range(2)]
    items = {
        language: {n: item(n, (f"q {n}", f"p {n.split('.')[0]}")) for n in names}
        for language in ("en", "ar", "zh", "de")
    }
    sizes = {language: Sizes(train=10, dev=10, micro_dev=6, test=20) for language in ("ar", "zh", "de")}
    chosen = sample_pool(items, {"en": Sizes(train="all", dev=10, micro_dev=0, test=20), **sizes}, seed=0)
    assert len(chosen["en"]["train"]) == 200 - 10 - 6 - 20
    assert set(chosen["ar"]["test"]) == set(chosen["de"]["test"])


def test_task_yaml_can_be_read_by_a_person(tmp_path: Path) -> None:
    prepare_card(small(tmp_path, "mlqa"), mlqa_zip(tmp_path / "m.zip", ("en",)), tmp_path / "out")
    text = (tmp_path / "out" / "task.yaml").read_text(encoding="utf-8")
    assert "    Answer the question based on the context.\n    Context:{context}\n" in text
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["licence"] == "CC BY-SA 3.0"
    assert "Lewis et al." in manifest["source"]


def test_a_byte_order_mark_in_a_text_is_no_text(tmp_path: Path) -> None:
    content = squad(8, "en").decode().replace("en paragraph", "\ufeffen paragraph").encode("utf-8-sig")
    (tmp_path / "en.json").write_bytes(content)
    prepare_card(small(tmp_path, "squad_json"), tmp_path, tmp_path / "out")
    assert all(row["context"].startswith("en paragraph") for row in rows(tmp_path / "out", "en", "test"))
