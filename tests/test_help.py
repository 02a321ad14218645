"""The help of grasp and of each verb: it starts with an example, fits on a screen, and completes."""

import argparse
import shlex
import subprocess

import pytest

from grasp_lora.cli import run
from grasp_lora.cli.completion import parsers_of
from grasp_lora.cli.main import build_parser, main

PARSERS = parsers_of(build_parser())
SCREEN = 40  # lines


@pytest.mark.parametrize("name", PARSERS)
def test_it_starts_with_an_example_and_fits_on_a_screen(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = PARSERS[name].format_help()
    _, after_usage, *_ = text.split("\n\n")
    assert after_usage.startswith(f"  {name}"), after_usage
    assert len(text.splitlines()) <= SCREEN
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", PARSERS)
def test_the_examples_are_commands_that_there_are(name, monkeypatch):
    examples = PARSERS[name].format_help().split("\n\n")[1].splitlines()
    parser = build_parser()
    for example in examples:
        words = shlex.split(example, comments=True)
        assert words[0] == "grasp"
        assert parser.parse_args(words[1:]).verb


def test_every_argument_is_explained():
    said = {}
    for name, parser in PARSERS.items():
        for action in parser._actions:
            verbs = isinstance(action, argparse._SubParsersAction)
            if not verbs and not action.choices and not action.help:
                said[name] = action.dest
    assert not said


def test_completion_for_the_shell(capsys, tmp_path):
    with pytest.raises(SystemExit) as exit:
        main(["--print-completion", "bash"])
    assert exit.value.code == 0
    (tmp_path / "grasp.bash").write_text(capsys.readouterr().out)
    asked = "source grasp.bash; COMP_WORDS=(grasp comp); COMP_CWORD=1; _shtab_grasp; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["compare"]


@pytest.mark.parametrize(
    ("given", "language"),
    [([], "ar"), (["zh"], "zh"), (["name=x"], "ar"), (["ja", "name=x"], "ja")],
)
def test_a_demo_without_a_language_takes_settings_too(monkeypatch, given, language):
    seen = {}
    monkeypatch.setattr(run, "_run", lambda arguments: seen.update(vars(arguments)))
    assert main(["demo", *given]) == 0
    assert seen["config"].name == run.DEMOS[language]
    assert seen["overrides"] == [one for one in given if "=" in one]


def test_a_demo_can_be_planned_only(monkeypatch):
    seen = {}
    monkeypatch.setattr(run, "_plan", lambda arguments: seen.update(vars(arguments)))
    assert main(["demo", "zh", "--dry-run"]) == 0
    assert seen["dry_run"]
    assert seen["config"].name == run.DEMOS["zh"]


def test_a_demo_that_is_none_names_those_that_are(capsys):
    assert main(["demo", "fr"]) == 2
    assert capsys.readouterr().err == "grasp: there is no demo in 'fr', only in ar, zh, ja\n"
