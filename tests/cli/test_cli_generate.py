"""`grasp generate`, against the answers that the library gives to the same prompts."""

import io
import shutil

import pytest
from tests.helpers.run import write_setting

from grasp_lora.cli import generate as verb
from grasp_lora.cli.main import main
from grasp_lora.errors import GraspError
from grasp_lora.experiment import run
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.backbone import load_backbone
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.generation import generate
from grasp_lora.tasks.example import Example
from grasp_lora.tasks.prompt import parse_template


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("run"))
    settings = {"evaluation.deployment": False, "evaluation.metrics": [], "evaluation.generate": 0}
    settings |= {"methods": ["lora_target", "merge"], "seeds": [42], "variants": {}}
    return folder, run(folder / "run.yaml", runs=str(folder / "runs"), **settings)


def answer(setting, adapter, prompt, new=6):
    backbone = load_backbone(str(setting / "backbone"))
    model = backbone.model if adapter is None else load_adapter(backbone.model, adapter, trainable=False)
    (found,) = generate(model, backbone.tokenizer, [Example("x", prompt, "")], Limits(60, new))
    return found


def said(capsys, *arguments):
    assert main(["generate", *map(str, arguments)]) == 0
    return capsys.readouterr().out.strip()


def test_the_adapter_that_the_run_deploys_with_the_tasks_prompt(made, capsys):
    setting, done = made
    assert done.adapter is not None
    assert said(capsys, done.folder, "ab 7") == answer(setting, done.adapter, "say ab 7\n") != ""


def test_an_adapter_in_a_run(made, capsys):
    setting, done = made
    adapter = done.folder / "adapters/en"
    expected = answer(setting, adapter, "say cd\n", new=3)
    assert said(capsys, adapter, "cd", "--max-new-tokens", 3) == expected
    assert said(capsys, adapter, "cd", "--raw", "--max-new-tokens", 3) == answer(
        setting, adapter, "cd", new=3
    )


def test_a_second_one_beside_it(made, capsys):
    setting, done = made
    one, other = done.folder / "adapters/en", done.folder / "merged"
    shown = said(capsys, one, "gh 3", "--beside", other)
    first, second = (answer(setting, adapter, "say gh 3\n") for adapter in (one, other))
    assert shown == f"[{one}]\n{first}\n\n[{other}]\n{second}"
    assert first != second  # or this would show nothing


def test_an_adapter_outside_of_any_run(made, tmp_path, capsys):
    setting, done = made
    adapter = shutil.copytree(done.folder / "merged", tmp_path / "elsewhere")
    expected = answer(setting, adapter, "ef", new=5)
    assert said(capsys, adapter, "ef", "--max-new-tokens", 5) == expected  # the base that it names
    assert said(capsys, adapter, "ef", "--base", setting / "backbone", "--max-new-tokens", 5) == expected


def test_texts_from_a_file_and_from_standard_input(made, tmp_path, capsys, monkeypatch):
    _, done = made
    expected = said(capsys, done.folder, "mn 2")
    (tmp_path / "text.txt").write_text("mn 2\n")
    assert said(capsys, done.folder, "--input", tmp_path / "text.txt") == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("mn 2\n"))
    assert said(capsys, done.folder, "-") == expected


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give one text"),
        (["a", "--input", "b"], "give one text"),
        (["--input", "nowhere.txt"], "nowhere.txt cannot be read as text"),
        ([" "], "the text is empty"),
        (["a", "--field", "b=c"], "beside the text's, the fields are: none"),
        (["a", "--raw", "--field", "b=c"], "--field is of a task's prompt, and here is none"),
        (["a", "--max-new-tokens", "0"], "at least 1"),
        (["a", "--max-new-tokens", "99"], "raise max_length"),
        (["a", "--beside", "nowhere"], "nowhere is no folder"),
    ],
)
def test_one_message(made, capsys, arguments, reason):
    assert main(["generate", str(made[1].folder), *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_a_run_without_its_config_is_said(made, tmp_path, capsys):
    run = shutil.copytree(made[1].folder, tmp_path / "run")
    (run / "config.yaml").unlink()
    for verb_of in ["generate", run, "a"], ["watch", run]:
        assert main([str(one) for one in verb_of]) == 2
        assert "run is a run without its config.yaml: the `grasp run`" in capsys.readouterr().err
    assert main(["runs", str(tmp_path)]) == 0
    assert "run  no config " in capsys.readouterr().out


def test_a_prompt_with_several_fields():
    template = parse_template("{context}\nQuestion: {question}\n")
    example = verb._example("A b.", ["question=Who?"], template)
    assert example.prompt == "A b.\nQuestion: Who?\n"
    assert example.body == (0, 4)
    for fields, reason in ([], "also has the field 'question'"), (["x=1"], "the fields are: question"):
        with pytest.raises(GraspError, match=reason):
            verb._example("A b.", fields, template)
