"""YAML from anybody: plain values, or one message, at once."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_lora.config.loading import load_config
from grasp_lora.data.card import load_card
from grasp_lora.errors import GraspError
from grasp_lora.reporting.logs import config_of
from grasp_lora.tasks.task import load_task
from grasp_lora.yamls import parse_yaml

LEVELS = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
BOMB = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *LEVELS, "last: *a11"])
HOSTILE = {
    "a tag that runs a program": ("x: !!python/object/apply:os.system ['touch ran']", "could not determine"),
    "a tag that names a function": ("x: !!python/name:os.system", "could not determine"),
    "an unknown tag": ("x: !own y", "could not determine"),
    "a bomb of aliases": (BOMB, "its aliases stand for more than anybody would write"),
    "a bomb of merges": (BOMB.replace("last: *a11", "<<: *a11"), "its aliases stand for more"),
    "a list within itself": ("x: &a [*a]", "what begins at line 1 is within itself"),
    "a mapping within itself": ("x: &a {b: *a}", "what begins at line 1 is within itself"),
    "brackets without end": ("[" * 100_000, "nested more than 60 levels deep"),
    "braces without end": ("{a: " * 100_000, "nested more than 60 levels deep"),
    "dashes without end": ("- " * 100_000, "nested more than 60 levels deep"),
    "deeper and deeper": ("\n".join(" " * n + "a:" for n in range(1000)), "nested more than 60 levels deep"),
    "an empty number": ("x: !!int ''", "a value does not fit its tag"),
    "a time that is none": ("x: !!timestamp y", "a value does not fit its tag"),
    "a day that is none": ("x: 2001-99-99", "a value does not fit its tag"),
    "a number of many digits": (f"x: {'9' * 5000}", "a value does not fit its tag"),
    "a truth that is none": ("x: !!bool y", "a value does not fit its tag"),
    "a key that is a list": ("? [1]\n: 2", "unhashable"),
    "a key twice": ("x: 1\nx: 2", "the key 'x' stands twice before line"),
    "far too much": ("x" * (2 << 20), "more than 1 MiB"),
    "a control character": ("x: \0", "special characters are not allowed"),
}
READERS = {"config": load_config, "task": load_task, "card": load_card}


@pytest.mark.hostile("YAML: tags, bombs, nesting", "refused in one message, at once")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_yaml_is_refused_at_once(tmp_path, monkeypatch, what, reader):
    monkeypatch.chdir(tmp_path)
    text, reason = HOSTILE[what]
    (tmp_path / "x.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(GraspError, match=reason) as refused:
        READERS[reader](tmp_path / "x.yaml")
    assert time.process_time() - began < 2
    assert len(str(refused.value)) < 2000
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_run_with_such_a_config_is_read_without_it(tmp_path, what):
    (tmp_path / "config.yaml").write_text(HOSTILE[what][0])
    assert config_of(tmp_path) == {}


def test_plain_yaml_is_read_as_it_stands():
    assert parse_yaml("", "it") is None
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}, e: no}", "it") == {
        "a": [1, 2], "b": [1, 2], "c": {"d": 1, "e": False},
    }  # fmt: skip


@given(st.text(max_size=60))
def test_any_text_is_values_or_one_message(text):
    with contextlib.suppress(GraspError):  # and nothing else
        parse_yaml(text, "it")
