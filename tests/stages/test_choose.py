"""What chooses among the points of a grid."""

import dataclasses

import pytest
from tests.helpers.run import write_setting

import grasp_lora
from grasp_lora import GraspError
from grasp_lora.stages.choose import choose
from grasp_lora.workspace.records import DevLosses, LearnedRatio
from grasp_lora.workspace.rows import Row

CONFIG = """
name: choice
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
training: {epochs: 1, learning_rate: 1e-2}
methods: [grid, prune_after]
grid: [0.0, 0.9]
max_length: 40
max_new_tokens: 6
evaluation: {metrics: [rouge1, chrf]}
select_by: chrf
"""


def scored(folder, value):
    folder.mkdir()
    Row("m", 42, 1.0, [1.0], {"chrf": {"value": value}}, [], {}).write(folder)
    return folder


def points(folder, losses):
    for p, loss in losses.items():
        (folder / str(p)).mkdir()
        DevLosses((loss,), 0).write(folder / str(p))
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / str(p) / name).write_text(str(p))
    return {p: folder / str(p) for p in losses}


@pytest.mark.parametrize(
    ("values", "best"),
    [
        (
            {0.1: 20.0, 0.2: 30.0, 0.3: 30.0, 0.4: 30.0},
            0.3,
        ),  # of equal scores the lower loss, of these the smaller
        ({0.1: 31.0, 0.2: 30.0, 0.3: 30.0, 0.4: 30.0}, 0.1),
    ],
)
def test_a_metric_chooses_the_highest(tmp_path, values, best):
    made = points(tmp_path, {0.4: 1.0, 0.3: 1.0, 0.1: 2.0, 0.2: 3.0})
    scores = {p: scored(tmp_path / f"s{p}", value) for p, value in values.items()}
    (tmp_path / "best").mkdir()
    choose(None, tmp_path / "best", points=made, by="chrf", scores=scores)
    found = LearnedRatio.read(tmp_path / "best")
    assert (found.p, found.rule) == (best, "chrf")
    assert found.dev_score == {str(p): value for p, value in values.items()}
    assert (tmp_path / "best/adapter_model.safetensors").read_text() == str(best)
    (tmp_path / "by_loss").mkdir()
    choose(None, tmp_path / "by_loss", points=made)
    assert dataclasses.replace(LearnedRatio.read(tmp_path / "by_loss"), dev_loss=None) == LearnedRatio(0.3)


def test_the_grid_is_chosen_by_its_dev_answers(tmp_path):
    folder = write_setting(tmp_path, CONFIG)
    found = grasp_lora.run(folder / "run.yaml", runs=folder / "runs")
    for method in ("grid", "prune_after"):
        chosen = LearnedRatio.read(found.folder / f"{method}/seed42")
        values = {
            p: Row.read(found.folder / f"dev/{method}/p{p}0-seed42").scores["chrf"]["value"]
            for p in (0.0, 0.9)
        }
        assert chosen.dev_score == {str(p): value for p, value in values.items()}
        assert chosen.p == max(sorted(values), key=values.get)
    with pytest.raises(
        GraspError, match=r"select_by is bleu: name it in evaluation\.metrics, too \(they are rouge1"
    ):
        grasp_lora.run(folder / "run.yaml", runs=folder / "runs", select_by="bleu", name="x")
    with pytest.raises(GraspError, match=r"select_by: it is one of loss, task, rouge1"):
        grasp_lora.run(folder / "run.yaml", runs=folder / "runs", select_by="rogue")
