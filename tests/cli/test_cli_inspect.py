"""`grasp inspect` as it is called."""

import pytest
from tests.helpers.adapter_checks import edit_config, usual_pair

from grasp_lora.cli.main import main
from grasp_lora.merging import merge_adapters


@pytest.fixture
def merged(tmp_path):
    merge_adapters(usual_pair(tmp_path), tmp_path / "merged")
    return tmp_path / "merged"


def test_tables(merged, capsys):
    assert main(["inspect", str(merged)]) == 0
    shown = capsys.readouterr().out
    assert "4 modules, rank 6, scaling 4;" in shown
    for line in ("| source | 0.0% | 0.0% |", "| self_attn.q_proj |       2 |    6 |", "| 1     |       2 |"):
        assert line in shown


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_figure(merged, tmp_path, suffix, capsys):
    figure = tmp_path / f"adapter.{suffix}"
    assert main(["inspect", str(merged), "--figure", str(figure)]) == 0
    start = {"svg": b"<?xml", "png": b"\x89PNG"}[suffix]
    assert figure.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--figure", "adapter.pdf"], "give a file that ends in .svg or .png"),
        (["--parts", "."], "there is no parts.json"),
    ],
)
def test_one_message(merged, capsys, arguments, reason):
    assert main(["inspect", str(merged), *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_what_is_not_plain_lora(merged, capsys):
    edit_config(merged, use_dora=True)
    assert main(["inspect", str(merged)]) == 2
    assert "use_dora" in capsys.readouterr().err


def test_every_verb_of_adapters_shows_an_example_first(capsys):
    for verb in ("inspect", "export", "push", "generate"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        shown = capsys.readouterr().out
        lines = shown.splitlines()
        assert f"grasp {verb} " in shown.split("\n\n")[1]
        assert len(lines) <= 40
