"""One file for many runs."""

import pytest
from tests.helpers.run import CONFIG, write_setting

import grasp_lora
from grasp_lora.cli.main import main
from grasp_lora.config.loading import load_config, load_configs
from grasp_lora.errors import GraspError
from grasp_lora.experiment import read_configs

BASE = """
name: titles
backbone: b
task: t
source: {language: en}
target: {language: ar}
methods: [merge]
"""


@pytest.fixture
def file(tmp_path):
    def write(axes, text=BASE):
        (tmp_path / "matrix.yaml").write_text(f"{text}\naxes: {axes}\n")
        return tmp_path / "matrix.yaml"

    return write


def test_the_first_axis_changes_last(file):
    path = file("{target.language: [ar, zh], control.every: [5, 10], draws: 3}")
    configs = load_configs(path)
    assert [one.name for one in configs] == ["titles-ar-5", "titles-ar-10", "titles-zh-5", "titles-zh-10"]
    assert [one.target.language for one in configs] == ["ar", "ar", "zh", "zh"]
    assert [one.control.every for one in configs] == [5, 10, 5, 10]
    assert {one.target.draws for one in configs} == {3}


def test_what_has_no_short_name_is_given_one(file):
    path = file("{task: {titles: handbook, questions: data/xquad}, merge: [sum, linear]}")
    configs = load_configs(path)
    assert [one.name for one in configs] == [
        "titles-titles-sum",
        "titles-titles-linear",
        "titles-questions-sum",
        "titles-questions-linear",
    ]
    assert [one.task for one in configs] == ["handbook", "handbook", "data/xquad", "data/xquad"]


def test_an_override_of_an_axis_is_its_only_value(file):
    path = file("{target.language: [ar, zh], control.every: [5, 10]}")
    (one,) = load_configs(path, ["target.language=zh", "control.every=10", "name=x", "control.beta=0"])
    assert (one.name, one.target.language, one.control.every) == ("x-zh-10", "zh", 10)
    assert one.control.beta == 0
    assert load_config(path, ["target.language=zh", "control.every=5"]).name == "titles-zh-5"
    assert [one.name for one in load_configs(path, ["control.every=5"])] == ["titles-ar-5", "titles-zh-5"]
    with pytest.raises(GraspError, match=r"axes.target.language has no 'ja'; it has ar, zh"):
        load_configs(path, ["target.language=ja"])


@pytest.mark.parametrize("given", ["source.train_examples=null", "source.train_examples=all"])
def test_an_override_by_value_or_by_name_is_the_run_that_the_file_makes(file, given):
    path = file("{source.train_examples: {few: 4, all: null}}")
    one = load_config(path, [given])
    assert (one.name, one.sources[0].train_examples) == ("titles-all", None)


def test_an_override_of_what_is_above_an_axis(file):
    path = file("{target.language: [ar, zh], seed: [1, 2]}")
    configs = load_configs(path, {"target": {"language": "zh", "train_examples": 5}})
    assert [(one.name, one.target.language) for one in configs] == [
        ("titles-zh-1", "zh"),
        ("titles-zh-2", "zh"),
    ]
    assert {one.target.train_examples for one in configs} == {5}


def test_no_experiment_is_none():
    assert grasp_lora.run([]) == []


def test_one_run_is_wanted_and_there_are_several(file):
    path = file("{target.language: [ar, zh, ja]}")
    with pytest.raises(GraspError, match="make 3 runs, titles-ar to titles-ja: say which by one value"):
        load_config(path)
    with pytest.raises(GraspError, match="make 3 runs"):
        grasp_lora.run(path)


def test_axes_of_what_a_file_extends(file):
    base = file("{target.language: [ar, zh]}")
    (base.parent / "other.yaml").write_text("extends: matrix.yaml\nname: other\n")
    assert [one.name for one in load_configs(base.parent / "other.yaml")] == ["other-ar", "other-zh"]


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ("[ar, zh]", "axes is a mapping"),
        ("{}", "axes is a mapping"),
        ("{target.language: ar}", "axes.target.language is a list of values"),
        ("{target.language: []}", "axes.target.language is a list of values"),
        ("{target: [{language: ar}]}", "needs a name: give a mapping"),
        ("{merge: [sum, 'sum ']}", "two of its values would have one name"),
        ("{merge: ['/', sum]}", "two of its values would have one name"),
        ("{seed: {a: 1, '../b': 2}}", "name: it names a folder"),
        ("{target.languages: [ar]}", "at ar is not a valid config"),
        ("{seed: [1, x]}", "seed: "),
        ("{draws: no}", "target.draws"),
    ],
)
def test_what_are_no_axes(file, axes, said):
    with pytest.raises(GraspError, match=said):
        load_configs(file(axes))


def test_too_many_runs(file):
    tens = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"
    with pytest.raises(GraspError, match="axes make 10000 runs, and 1000 is the most"):
        load_configs(
            file(f"{{seed: {tens}, control.every: {tens}, control.micro_dev: {tens}, lora.r: {tens}}}")
        )


@pytest.mark.slow
def test_a_matrix_runs_by_one_command_with_one_report(tmp_path, monkeypatch, capsys):
    config = (
        CONFIG[: CONFIG.index("methods:")] + "methods: [merge, grasp]\nmax_length: 40\nmax_new_tokens: 6\n"
    )
    folder = write_setting(tmp_path, f"{config}axes: {{control.every: [2, 3]}}\n")
    monkeypatch.chdir(folder)
    assert main(["run", "run.yaml"]) == 0
    said = capsys.readouterr().out
    assert "All runs of run.yaml together: reports/run/report.html" in said
    page = (folder / "reports/run/report.html").read_text()
    assert all(one in page for one in ("tiny-2", "tiny-3"))
    assert all((folder / "runs" / one / "final/seed42/done.json").exists() for one in ("tiny-2", "tiny-3"))
    assert [one.control.every for one in read_configs("run.yaml")] == [2, 3]
    assert main(["plan", "run.yaml"]) == 0
    assert "All is done" in capsys.readouterr().out
    assert main(["learn", "run.yaml", "control.every=3"]) == 0  # a step of one of them
    assert main(["learn", "run.yaml"]) == 2
