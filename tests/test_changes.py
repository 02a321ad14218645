"""What changed since a stage was done is noticed, and what is made again is made again everywhere."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_models import tiny_llama
from tests.tiny_run import write_setting

from grasp_lora.cli import main
from grasp_lora.config_file import load_config
from grasp_lora.plan import plan
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.results import read_results
from grasp_lora.stages.run_directory import RunDirectory

SMALL = """
name: tiny
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
training: {epochs: 1, learning_rate: 1e-2}
methods: [lora_target, grid]
grid: [0.2]
evaluation: {generate: 2, metrics: [em]}
max_length: 40
max_new_tokens: 6
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("original"), SMALL)
    for path in (folder / "run.yaml", folder / "task.yaml"):
        path.write_text(path.read_text().replace(f"{folder}/", ""))
    with (folder / "task.yaml").open("a") as file:
        file.write("references: answers\n")
    for path in folder.glob("*.jsonl"):
        edit_rows(path, answers=["one"])
    with contextlib.chdir(folder):
        assert main(["run", "run.yaml"]) == 0
    return folder


@pytest.fixture
def done(original, tmp_path, monkeypatch):
    """A finished run in the current folder, each test's own, and its command."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path(), lambda *more: main(["run", "run.yaml", *more])


def read(path: Path):
    return json.loads(path.read_text())


def edit_rows(path, **values):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, **values}) + "\n" for row in rows))


def test_other_references_make_other_scores(done, capsys):
    folder, run = done
    edit_rows(folder / "ar-test.jsonl", answers=["one", "another"])
    assert run() == 2
    assert "data.test" in capsys.readouterr().err


def test_another_scaling_is_another_adapter(done, capsys):
    folder, run = done
    for language in ("en", "ar"):
        shutil.copytree(folder / f"runs/tiny/adapters/{language}", folder / language)
    sides = [f"source.adapter={folder}/en", f"target.adapter={folder}/ar", "name=given"]
    assert run(*sides) == 0
    config = folder / "ar/adapter_config.json"
    config.write_text(json.dumps({**read(config), "lora_alpha": 8}))
    assert run(*sides) == 2
    assert "adapter.ar" in capsys.readouterr().err


def test_a_backbone_that_was_overwritten_is_another_one(done, capsys):
    folder, run = done
    model = tiny_llama()
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    model.save_pretrained(folder / "backbone")
    assert run() == 2
    assert "backbone.files" in capsys.readouterr().err


def test_with_force_a_longer_grid_costs_more_and_the_report_says_so(done):
    folder, run = done
    root = folder / "runs/tiny"
    before = read(root / "eval/grid/seed42/cost.json")["total"]["backward_examples"]
    assert run("grid=[0.2,0.9]", "--force") == 0
    assert read(root / "eval/grid/seed42/cost.json")["total"]["backward_examples"] == 2 * before
    assert f"grid,42,{2 * before}" in _columns(root / "report/costs.csv", "method,seed,backward_examples")
    assert main(["compare", "run.yaml", "lora_target", "grid"]) == 0


def _columns(path, names):
    header, *rows = (line.split(",") for line in path.read_text().splitlines())
    return [",".join(row[header.index(name)] for name in names.split(",")) for row in rows]


def test_another_dev_set_chooses_anew(done):
    folder, run = done
    root = folder / "runs/tiny"
    assert run("target.dev_examples=2", "--force") == 0
    found = read(root / "grid/p0.20-seed42/dev_losses.json")
    assert read(root / "grid/seed42/ratio.json")["dev_loss"]["0.2"] == found["by_epoch"][found["best_epoch"]]


def test_a_method_more_needs_no_force(done):
    folder, run = done
    assert run("methods=[lora_target,grid,merge_untrained]") == 0
    assert "merged, not fine-tuned" in (folder / "runs/tiny/report/summary.md").read_text()


def test_one_answer_is_shown_without_a_test(done):
    _, run = done
    assert run("evaluation.generate=1", "name=one") == 0


def test_a_loss_that_is_not_finite_is_no_result(done, capsys):
    folder, run = done
    path = folder / "runs/tiny/adapters/ar/adapter_model.safetensors"
    shutil.copytree(path.parent, folder / "broken")
    weights = load_file(path)
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, folder / "broken/adapter_model.safetensors", {"format": "pt"})
    assert run("target.adapter=broken", "methods=[lora_target]", "name=broken") == 2
    assert "lora_target: the loss of test example" in capsys.readouterr().err


def test_a_line_separator_in_an_answer_is_no_new_line(done):
    folder, _ = done
    path = folder / "runs/tiny/eval/grid/seed42/predictions.jsonl"
    rows = [{**json.loads(line), "prediction": "a\u2028b\x85c"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (result,) = read_results(RunDirectory(folder / "runs/tiny"), {"grid": ["eval/grid/seed42"]})
    assert [row["prediction"] for row in result.predictions[0]] == ["a\u2028b\x85c"] * 2


def test_a_grid_costs_its_points_whatever_the_seeds(done):
    folder, run = done
    assert run("seeds=[7]", "name=seven") == 0
    stages = set(read(folder / "runs/seven/eval/grid/seed7/cost.json")["stages"])
    assert stages == {"grid/p0.20-seed42", "grid/seed42"}


def test_modules_have_a_threshold_and_no_grid(done):
    folder, run = done
    modules = "merge_prune={unit: module, threshold: 1000.0}"
    assert run("methods=[merge_prune]", modules, "name=modules") == 0
    assert not list((folder / "runs/modules/merge_prune").glob("p*"))
    found = read(folder / "runs/modules/eval/merge_prune/seed42/scores.json")
    bare = read(folder / "runs/modules/merge_prune/seed42/dev_losses.json")
    assert found["dev_loss"] == pytest.approx(
        bare["by_epoch"][1], rel=1e-5
    )  # all is pruned: no adapter at all
    assert "pruned at every step |  " in (folder / "runs/modules/report/summary.md").read_text()


def test_variants_keep_to_their_own_folder(done):
    variants = "variants={final: {tau: 0.3}, report: {tau: 0.2}}"
    config = load_config(Path("run.yaml"), ["methods=[grasp]", "seeds=[42,7]", variants])
    names = [job.name for job in plan(config, Inputs(config), RunDirectory(config.folder))]
    assert len(set(names)) == len(names)
    assert {"final/seed42", "variants/final/seed42", "variants/report/seed7", "report"} <= set(names)
