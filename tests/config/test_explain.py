"""`grasp config --explain` and docs/config.md: every key has a meaning, values and a default."""

from pathlib import Path

import pytest
import yaml

from grasp_lora.cli.main import main
from grasp_lora.config.explain import as_page, explain, known_keys
from grasp_lora.config.tree import Config
from grasp_lora.errors import GraspError
from grasp_lora.methods.plan import NAMES

PAGE = Path(__file__).parents[2] / "docs" / "config.md"
SMALL = {
    "name": "x",
    "backbone": "some/model",
    "task": "handbook",
    "source": {"language": "en"},
    "target": {"language": "ar"},
}
KEYS = {key.name: key for key in known_keys()}


def test_every_key_has_a_meaning():
    assert len(KEYS) > 120
    assert not [key.name for key in KEYS.values() if len(key.meaning) < 4]


def of_values(node, name=""):
    for word, value in node.items():
        dotted = f"{name}.{word}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from of_values(value, dotted)
        else:
            yield dotted, value


def test_it_knows_every_key_and_default_of_a_resolved_config():
    resolved = yaml.safe_load(Config.model_validate(SMALL | {"methods": ["grasp"]}).dump())
    seen = 0
    for name, value in of_values(resolved):
        text = explain(name).splitlines()[0]
        assert text.startswith(f"{name}: ")
        if name in KEYS and KEYS[name].default is not None and name != "methods":
            shown = text.partition("; default ")[2]
            assert yaml.safe_load(shown) == value, name
            seen += 1
    assert seen > 80


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("control.every", "integer, at least 1", "10"),
        ("control.p_max", "number, at least 0 and at most 1", "0.8"),
        ("lora.dropout", "number, at least 0 and under 1", "0.05"),
        ("lora.target_modules", "list of text, or all-linear", '["q_proj", "v_proj"]'),
        ("target.tests", "mapping of names to path", "{}"),
        ("evaluation.generate", "integer, at least 0, or null", "4"),
        ("evaluation.bertscore.rescale", "true or false", "false"),
        ("variants.no_beta.beta", "number, at least 0", "that of control.beta"),
        ("target.training.epochs", "integer, at least 1", "that of training.epochs"),
        ("merge", "sum | linear", "sum"),
    ],
)
def test_kinds_and_defaults(name, kind, default):
    assert explain(name).splitlines()[0] == f"{name}: {kind}; default {default}"


def test_what_must_be_given_and_what_users_name():
    assert explain("backbone").startswith("backbone: text; must be given\n")
    assert explain("task.languages.ar.train") == explain("task.languages")
    assert "Another config" in explain("extends")
    assert all(name in explain("methods") for name in NAMES.default)


def test_a_part_has_its_keys_and_nothing_else():
    lines = [line for line in explain("control").splitlines() if not line.startswith(" ")]
    assert lines[0] == "control: keys"
    assert {line.split(":")[0] for line in lines[1:]} == {k for k in KEYS if k.startswith("control.")}


@pytest.mark.parametrize(
    ("name", "above", "key", "home"),
    [
        ("variants", "variants.NAME", "p_min", "control"),
        ("variants.wide", "variants.wide", "p_min", "control"),
        ("target.training", "target.training", "epochs", "training"),
    ],
)
def test_keys_of_a_part_that_has_those_of_another(name, above, key, home):
    lines = {line.split(":")[0]: line for line in explain(name).splitlines()[1:] if line[0] != " "}
    assert lines.keys() == {k.replace(f"{home}.", f"{above}.") for k in KEYS if k.startswith(f"{home}.")}
    assert lines[f"{above}.{key}"].endswith(f"; default that of {home}.{key}")


@pytest.mark.parametrize(
    ("name", "near"),
    [("control.evry", "control.every"), ("tau", "control.tau"), ("training.x.y", "epochs")],
)
def test_an_unknown_key_names_near_ones(name, near):
    with pytest.raises(GraspError, match=f"no key is called '{name}'.*{near}"):
        explain(name)


def test_the_command(capsys):
    assert main(["config", "--explain", "control.tau"]) == 0
    assert capsys.readouterr().out.startswith(
        "control.tau: number, at least 0; default 0.01\n    Exploration"
    )
    assert main(["config", "--explain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2 * len(KEYS)
    assert main(["config"]) == 2
    assert "name a YAML file" in capsys.readouterr().err


def test_the_page_is_what_the_settings_say():
    assert PAGE.read_text(encoding="utf-8") == as_page(), "run python -m tests.config.test_explain"


if __name__ == "__main__":
    PAGE.write_text(as_page(), encoding="utf-8")
