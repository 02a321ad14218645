"""Each code block of the documentation runs, or is at least what it says it is; or a comment says why not.

Blocks of `python`, `sh` and `yaml` are looked at; `text` is for people. The walk through `docs/your-data.md`
runs as a reader would run it; those of `docs/callback.md` and of README run in `tests/test_readme.py`.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from tests.helpers.models import tiny_llama
from tests.helpers.pages import ROOT, Block, blocks, blocks_in, text_of
from tests.helpers.tokenizer import tiny_tokenizer

from grasp_lora.cli.main import build_parser, main
from grasp_lora.config.axes import AXES
from grasp_lora.config.explain import explain
from grasp_lora.data.card import load_card
from grasp_lora.errors import GraspError
from grasp_lora.experiment import read_configs
from grasp_lora.workspace.records import Done

# Commands that are not ours: installing, and settings of the shell.
OTHERS = re.compile(r"(export \S+=\S+( \S+=\S+)*|(\S+/)?pre-commit install)$")
ELSEWHERE = {"README.md", "docs/callback.md"}  # their Python runs in tests/test_readme.py


def commands(block: Block) -> list[list[str]]:
    """The words of each line, without comments and settings before the command."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def check_grasp(words: list[str]) -> None:
    """The verb, its options and the keys of a command exist, and so do configs of the repository."""
    arguments, more = build_parser().parse_known_args(words)
    assert not [one for one in more if one.startswith("-")], f"unknown options {more}"
    assert arguments.verb
    for word in words:
        if re.match(r"[a-z_]+(\.\w+)*=", word):
            explain(word.partition("=")[0])
        if word.startswith("configs/"):
            assert list(ROOT.glob(word)), f"{word} is not there"


def check_command(words: list[str]) -> None:
    while re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        words = words[1:]
    name = Path(words[0]).name
    if name == "grasp":
        check_grasp(words[1:])
    elif name == "torchrun":
        check_command(words[words.index("--no-python") + 1 :])
    elif name == "accelerate":  # of the reader's own script
        assert words[-1].endswith(".py")
    elif name == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{target}:", text_of("Makefile"), flags=re.M) for target in targets)
    elif name in ("python", "python3") and words[1].endswith(".py"):
        assert (ROOT / words[1]).exists(), words[1]
    elif name in ("python", "python3"):
        assert words[1:3] == ["-m", "venv"] or words[1] == "-m", words
        assert words[2] in ("venv", "pytest") or any(
            (ROOT / f"{words[2].replace('.', '/')}{end}").exists() for end in (".py", "/__main__.py")
        )
    else:
        assert OTHERS.match(" ".join(words)) or name in ("ruff", "pytest", "pip"), f"unknown command: {words}"


@pytest.mark.parametrize("block", blocks("sh", "bash", "console"), ids=str)
def test_commands_exist(block):
    for words in commands(block):
        for one in " ".join(map(shlex.quote, words)).replace("'&&'", "&&").split(" && "):
            check_command(shlex.split(one))


@pytest.mark.parametrize(
    "line",
    [
        "grasp rnu titles.yaml",
        "grasp run x.yaml control.evry=5",
        "grasp run x.yaml --froce",
        "grasp run configs/no.yaml",
        "make demoo",
        "python benchmarks/no.py",
        "rm -r runs",
    ],
)
def test_the_check_of_commands_can_fail(line):
    with pytest.raises((AssertionError, GraspError, SystemExit)):
        check_command(shlex.split(line))


def titles() -> dict:
    """The README's config, which parts of configs elsewhere are parts of."""
    return yaml.safe_load(blocks_in("README.md", text_of("README.md"))[titles_at()].text)


def titles_at() -> int:
    return next(
        i for i, one in enumerate(blocks_in("README.md", text_of("README.md"))) if one.language == "yaml"
    )


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_config_a_part_of_one_or_a_card(block, tmp_path):
    values = yaml.safe_load(block.text)
    base = values.pop("extends", None)
    if base is not None and not base.endswith(".yaml"):  # of a card
        (tmp_path / "card.yaml").write_text(block.text, encoding="utf-8")
        assert load_card(tmp_path / "card.yaml").name == values["name"]
        return
    whole = values if "backbone" in values else {**titles(), **values}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")
    config = read_configs(tmp_path / "run.yaml")[0]
    assert {key for key in values if key not in type(config).model_fields} <= {AXES}


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_at_least_compiles_and_imports_what_there_is(block):
    compile(block.text, str(block), "exec")
    for line in re.findall(r"^from grasp_lora.*|^import grasp_lora.*", block.text, flags=re.M):
        exec(line, {})


def test_every_block_is_of_a_kind_that_is_checked():
    kinds = {"python", "sh", "yaml", "text"}
    assert not [str(one) for one in blocks() if one.language not in kinds and not one.why_not]
    walked = {"docs/your-data.md", *ELSEWHERE}
    unrun = [one for one in blocks("python") if one.page not in walked and not one.why_not]
    assert not list(map(str, unrun)), "run it in a test, or say why not: <!-- not run: reason -->"


@pytest.fixture
def walk(tmp_path, monkeypatch):
    """A folder with the tiny model in the place of the page's."""
    tiny_llama().save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_walk_through_your_own_data(walk, capsys):
    page = blocks_in("docs/your-data.md", text_of("docs/your-data.md"))
    for block in page:
        if block.language == "python":
            exec(block.text, {})
        elif block.language == "yaml":
            (walk / ("k2.yaml" if block.text.startswith("extends") else "titles.yaml")).write_text(
                block.text.replace("packaged:gemma-3-270m", str(walk / "backbone"))
            )
        elif block.language == "sh":
            for words in commands(block):
                assert main(words[1:]) == 0, (words, capsys.readouterr().err)
    shown = capsys.readouterr().out
    assert "Deploy: " in shown
    assert "runs/titles-es/report" in shown
    assert Done.read(walk / "runs/titles-es-k2/merge/seed42").seconds == pytest.approx(
        Done.read(walk / "runs/titles-es/merge/seed42").seconds
    )  # copied
    assert {"titles-es", "titles-es-k2", "titles-k5"} == {run.name for run in (walk / "runs").iterdir()}
    shutil.rmtree(walk / "runs")


CARD = "docs/cards.md"


def test_the_walk_through_a_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = blocks_in(CARD, text_of(CARD))
    (tmp_path / "reviews").mkdir()
    for language in ("en", "fr"):
        rows = "".join(f"{language} text number {i},{language} title {i}\n" for i in range(150))
        (tmp_path / f"reviews/{language}.csv").write_text(f"review,headline\n{rows}")
    card = next(one for one in page if one.language == "yaml")
    (tmp_path / "reviews.yaml").write_text(card.text)
    for words in commands(next(one for one in page if one.language == "sh")):
        assert main(words[1:]) == 0, capsys.readouterr().err
    assert "Write a headline for this review." in capsys.readouterr().out
