"""`grasp_lora.run` from a script or a notebook."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.helpers.run import write_setting

import grasp_lora
from grasp_lora import GraspError, Result, experiment
from grasp_lora.experiment import read_config

CONFIG = """
name: one
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
training: {epochs: 1, learning_rate: 1e-2}
control: {micro_dev: 4, every: 2}
methods: [lora_target, grasp]
seeds: [42, 7]
max_length: 40
max_new_tokens: 6
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return write_setting(tmp_path_factory.mktemp("setting"), CONFIG)


@pytest.fixture(scope="module")
def result(setting):
    return grasp_lora.run(str(setting / "run.yaml"), runs=setting / "runs", control={"tau": 0.02})


def test_a_result_says_what_was_found_and_where(result, setting):
    assert isinstance(result, Result)
    assert result.folder == setting / "runs/one"
    assert result.adapter in (setting / "runs/one/final/seed42", setting / "runs/one/adapters/ar")
    assert f"({result.adapter.relative_to(result.folder)})" in result.verdict[0]
    summary = (result.folder / "report/summary.md").read_text()
    assert summary.startswith("\n\n".join(result.verdict))
    ratio = json.loads((result.folder / "learn/seed42/ratio.json").read_text())
    assert result.ratio == ratio["p"]
    assert [(row.method, row.seed, row.title) for row in result.rows] == [
        ("lora_target", 42, "target adapter, not merged"),
        ("grasp", 42, "GRASP"),
        ("grasp", 7, "GRASP"),
    ]
    assert [row.p for row in result.rows] == [None, result.ratio, result.ratio]
    assert [row.adapter for row in result.rows] == ["adapters/ar", "final/seed42", "final/seed7"]
    scores = json.loads((result.folder / "eval/grasp/seed7/scores.json").read_text())
    assert result.rows[2].test_loss == pytest.approx(scores["test_loss"])
    assert len(result.rows[0].test_losses) == 6
    assert {"learn/seed42", "final/seed42"} == set(result.rows[1].costs)


def test_overrides_are_parts_or_dotted_keys(result, setting):
    for change in ({"control": {"tau": 0.03}}, {"control.tau": 0.03}):
        with pytest.raises(GraspError, match=r"control\.tau: was 0\.02, now 0\.03"):
            grasp_lora.run(setting / "run.yaml", runs=setting / "runs", **change)
    with pytest.raises(GraspError, match="contorl: unknown key"):
        grasp_lora.run(setting / "run.yaml", contorl={"tau": 0.03})


def test_several_experiments_share_what_is_equal(result, setting, caplog):
    (setting / "two.yaml").write_text("extends: run.yaml\nname: two\ncontrol: {tau: 0.02, every: 4}\n")
    first = read_config(setting / "run.yaml", {"runs": setting / "shared", "control.tau": 0.02})
    second = read_config(setting / "two.yaml", {"runs": setting / "shared"})
    with caplog.at_level("INFO", logger="grasp_lora"):
        one, two = grasp_lora.run([first, second])
    assert one.rows[1].test_losses == result.rows[1].test_losses
    for stage in ("adapters/en", "adapters/ar", "merged", "eval/lora_target/seed42"):
        assert f"{stage}: as {one.folder / stage}, copied" in caplog.text
        assert (two.folder / stage / "done.json").read_bytes() == (
            one.folder / stage / "done.json"
        ).read_bytes()
    assert "learn/seed42: as" not in caplog.text
    assert len(json.loads((two.folder / "learn/seed42/ratio.json").read_text())) > 0
    shutil.rmtree(one.folder)  # a copy stands by itself
    assert grasp_lora.run(second) == two


def test_a_given_adapter_is_named_where_it_is(setting, monkeypatch):
    monkeypatch.chdir(setting)
    shutil.copytree(setting / "runs/one/final/seed42", setting / "mine", dirs_exist_ok=True)
    given = {"target.adapter": "mine", "methods": ["lora_target"], "name": "given"}
    found = grasp_lora.run("run.yaml", **given)
    assert found.adapter == Path("mine")
    assert found.ratio == found.rows[0].p == json.loads((setting / "mine/pruned.json").read_text())["p"]
    (setting / "mine").rename(setting / "moved")
    moved = grasp_lora.run("run.yaml", **{**given, "target.adapter": str(setting / "moved")})
    assert (moved.adapter, moved.ratio) == (setting / "moved", found.ratio)


@pytest.mark.parametrize("experiment", [{"name": "x"}, None, 3, b"run.yaml"])
def test_what_is_no_experiment_is_said(experiment):
    with pytest.raises(GraspError, match="an experiment is a YAML file, a Config, or a list of them; got"):
        grasp_lora.run(experiment)


def test_a_changed_config_is_looked_at_again(setting):
    config = read_config(setting / "run.yaml")
    with pytest.raises(GraspError, match=r"the Config is not a valid config:\n  name: it names a folder"):
        grasp_lora.run(config.model_copy(update={"name": "../outside"}))


def test_a_config_object_takes_no_overrides(setting):
    with pytest.raises(GraspError, match="takes no overrides"):
        grasp_lora.run(read_config(setting / "run.yaml"), name="other")


def test_two_experiments_in_one_folder_are_refused(setting):
    config = read_config(setting / "run.yaml")
    other = config.model_copy(update={"seed": 7})
    with pytest.raises(GraspError, match=r"would write to .*runs/one: give each another name"):
        grasp_lora.run([config, other])


def test_an_unknown_packaged_backbone_is_refused_before_anything_is_written(setting):
    known = "packaged:gemma-3-270m"
    for refuse in (experiment.check, grasp_lora.run):
        file, more = setting / "run.yaml", {"runs": str(setting / "nope"), "backbone": "packaged:nope"}
        with pytest.raises(GraspError, match=f"no such packaged backbone. Use one of {known}"):
            refuse([read_config(file, more)])
    assert not list(setting.glob("nope/**/*.json"))


def test_the_example_of_the_documentation(setting, monkeypatch, capsys):
    monkeypatch.chdir(setting)
    (setting / "titles.yaml").write_text("extends: run.yaml\nmethods: [merge_untrained]\n")
    page = (Path(__file__).parents[1] / "docs/your-data.md").read_text(encoding="utf-8")
    exec(re.findall(r"```python\n(.*?)```", page, flags=re.S)[1], {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "None runs/titles-k5/merged"
    assert [line.split(":")[0] for line in lines[1:4]] == ["Deploy", "Pruning", "Cost"]
    assert lines[4].startswith("merge_untrained 42 None ")
