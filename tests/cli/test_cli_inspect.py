"""`grasp inspect` as it is called."""

import shutil

import pytest
from safetensors.torch import load_file, save_file
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


def test_nothing_of_a_foreign_adapter_moves_the_terminal(merged, capsys):
    parts = (merged / "parts.json").read_text().replace('"source"', '"\\u001b[31msource"')
    (merged / "parts.json").write_text(parts)
    edit_config(merged, base_model_name_or_path="\x1b]0;title\x07base\r")
    tensors = load_file(merged / "adapter_model.safetensors")
    renamed = {name.replace("self_attn", "self\x1b[2Jattn"): tensor for name, tensor in tensors.items()}
    save_file(renamed, merged / "adapter_model.safetensors", metadata={"format": "pt"})
    (merged / "parts.json").unlink()
    edit_config(merged, target_modules=[".*"])
    assert main(["inspect", str(merged)]) == 0
    shown = capsys.readouterr().out
    assert r"Base model: \x1b]0;title\x07base\r." in shown
    assert r"self\x1b[2Jattn.q_proj" in shown
    save_file(tensors, merged / "adapter_model.safetensors", metadata={"format": "pt"})
    (merged / "parts.json").write_text(parts)
    assert main(["inspect", str(merged)]) == 0
    shown += capsys.readouterr().out
    assert r"\x1b[31msource" in shown
    save_file(
        {f"\x1b[2J{name}": tensor for name, tensor in tensors.items()}, merged / "adapter_model.safetensors"
    )
    assert main(["inspect", str(merged)]) == 2
    shown += capsys.readouterr().err
    assert not {character for character in shown if not character.isprintable()} - {"\n"}


@pytest.mark.parametrize("verb", [["inspect"], ["export", "--to", "out"], ["push", "me/titles", "--yes"]])
def test_a_runs_folder_names_the_adapters_in_it(merged, tmp_path, capsys, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("name: run\n")
    arguments = [verb[0], "run", *verb[1:]]
    assert main(arguments) == 2
    assert "run is a run, and no adapter in it is finished yet" in capsys.readouterr().err
    for name in ("adapters/en", "final/seed42", "merged", "final/seed42.replaced-1"):
        shutil.copytree(merged, run / name)
        (run / name / "done.json").write_text("{}")
    assert main(arguments) == 2
    assert "run is a run with 3 adapters: give one, such as run/final/seed42\n" in capsys.readouterr().err
