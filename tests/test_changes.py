"""What changed since a stage was done is noticed, and what is made again is made again everywhere."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.models import tiny_llama
from tests.helpers.run import write_setting

from grasp_lora.cli.main import main
from grasp_lora.experiment import start
from grasp_lora.lm import backbone
from grasp_lora.methods.plan import plan
from grasp_lora.workspace.rows import Row

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
    assert "test: was" in capsys.readouterr().err


def test_another_scaling_is_another_adapter(done, capsys):
    folder, run = done
    for language in ("en", "ar"):
        shutil.copytree(folder / f"runs/tiny/adapters/{language}", folder / language)
    sides = [f"source.adapter={folder}/en", f"target.adapter={folder}/ar", "name=given"]
    assert run(*sides) == 0
    config = folder / "ar/adapter_config.json"
    config.write_text(json.dumps({**read(config), "lora_alpha": 8}))
    assert run(*sides) == 2
    assert "adapter: was" in capsys.readouterr().err


def test_a_backbone_that_was_overwritten_is_another_one(done, capsys):
    folder, run = done
    model = tiny_llama()
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    model.save_pretrained(folder / "backbone")
    assert run() == 2
    assert "model.files" in capsys.readouterr().err


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
    next(iter(weights.values())).fill_(3e38)  # finite, as an adapter must be; what is computed with it is not
    save_file(weights, folder / "broken/adapter_model.safetensors", {"format": "pt"})
    assert run("target.adapter=broken", "methods=[lora_target]", "name=broken") == 2
    assert "lora_target: the loss of test example" in capsys.readouterr().err


def test_a_line_separator_in_an_answer_is_no_new_line(done):
    folder, _ = done
    evaluated = folder / "runs/tiny/eval/grid/seed42"
    path = evaluated / "predictions.jsonl"
    rows = [{**json.loads(line), "prediction": "a\u2028b\x85c"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert [answer.prediction for answer in Row.read(evaluated).answers] == ["a\u2028b\x85c"] * 2


def test_a_grid_costs_its_points_whatever_the_seeds(done):
    folder, run = done
    assert run("seeds=[7]", "name=seven") == 0
    stages = set(read(folder / "runs/seven/eval/grid/seed7/cost.json")["stages"])
    assert stages == {"grid/p0.20-seed42", "grid/seed42"}


def test_one_threshold_needs_no_search(done):
    folder, run = done
    modules = "merge_prune={unit: module, thresholds: [1000.0]}"
    assert run("methods=[merge_prune]", modules, "name=modules") == 0
    assert not list((folder / "runs/modules/merge_prune").glob("p*"))
    found = read(folder / "runs/modules/eval/merge_prune/seed42/scores.json")
    bare = read(folder / "runs/modules/merge_prune/seed42/dev_losses.json")
    assert found["dev_loss"] == pytest.approx(
        bare["by_epoch"][1], rel=1e-5
    )  # all is pruned: no adapter at all
    assert "|      1000 | 100.00% |" in (folder / "runs/modules/report/summary.md").read_text()


def test_variants_keep_to_their_own_folder(done):
    variants = "variants={final: {tau: 0.3}, report: {tau: 0.2}}"
    names = [stage.name for stage in plan(start("run.yaml", ["methods=[grasp]", "seeds=[42,7]", variants]))]
    assert len(set(names)) == len(names)
    assert {"final/seed42", "variants/final/seed42", "variants/report/seed7", "report"} <= set(names)


LEARN = ["methods=[grasp]", "control={micro_dev: 4, every: 2}", "name=learn"]


def test_a_stage_asks_whether_what_it_reads_was_made_with_this_config(done, capsys):
    folder, run = done
    assert run(*LEARN) == 0
    config = (folder / "runs/learn/config.yaml").read_bytes()
    for verb, change, named in (
        ("finetune", "control.every=4", "control.every: was 2, now 4"),
        ("learn", "merge=linear", "method: was sum, now linear"),
        ("merge", "lora.r=4", "start.r: was 8, now 4"),
    ):
        for more in ([], ["--force"]):
            assert main([verb, "run.yaml", *LEARN, change, *more]) == 2
            error = capsys.readouterr().err
            assert named in error
            assert "make that stage again first" in error
    assert main(["finetune", "run.yaml", *LEARN, "merge=linear", "--p", "0.3"]) == 2
    assert (folder / "runs/learn/config.yaml").read_bytes() == config
    assert main(["finetune", "run.yaml", *LEARN]) == 0


def test_what_dtype_auto_stood_for_is_what_counts(done, capsys, caplog, monkeypatch):
    _, run = done
    with caplog.at_level("INFO", logger="grasp_lora"):
        assert run("name=shown") == 0
    assert caplog.text.count("backbone: float32 on cpu") == 1
    assert run("dtype=float32") == 0  # the same
    monkeypatch.setattr(backbone, "pick_device", lambda device: torch.device("cuda"))
    assert run() == 2
    assert "model.dtype: was float32, now bfloat16" in capsys.readouterr().err


def test_methods_in_another_order_have_another_report(done):
    folder, run = done
    first = (folder / "runs/tiny/report/summary.md").read_text()
    assert run("methods=[grid,lora_target]") == 0
    second = (folder / "runs/tiny/report/summary.md").read_text()
    assert "test − target adapter" in first
    assert "test − fixed mask" in second


@pytest.mark.parametrize("file", ["tokenizer.model", "vocab.txt", "merges.txt", "chat_template.jinja"])
def test_every_file_that_a_tokenizer_may_read_counts(done, capsys, file):
    folder, run = done
    (folder / "backbone" / file).write_text("x")
    assert run() == 2
    assert "model.files" in capsys.readouterr().err
    (folder / "backbone" / file).unlink()
    (folder / "backbone" / "README.md").write_text("x")
    assert run() == 0


def test_another_encoder_in_the_same_folder_makes_other_scores(done, capsys):
    folder, run = done
    shutil.copytree(folder / "backbone", folder / "encoder")  # a decoder will do, too
    scores = [
        "evaluation={generate: 2, metrics: [bertscore_f1], bertscore: {encoder: encoder, layer: 1}}",
        "name=scores",
    ]
    assert run(*scores) == 0
    weights = load_file(folder / "encoder/model.safetensors")
    save_file({n: w * 2 for n, w in weights.items()}, folder / "encoder/model.safetensors", {"format": "pt"})
    assert run(*scores) == 2
    assert "encoder.files" in capsys.readouterr().err


@pytest.mark.hostile("an adapter of another base model", "refused before any training, both models named")
def test_an_adapter_of_another_model_is_refused_before_training(done, capsys):
    folder, run = done
    shutil.copytree(folder / "runs/tiny/adapters/en", folder / "en")
    config = read(folder / "en/adapter_config.json")
    given = ["source.adapter=en", "name=other"]
    for name, code in (
        (str((folder / "backbone").resolve()), 0),
        ("/elsewhere/backbone", 0),  # the same folder on another machine, for all one can tell
        ("owner/other-model", 2),
        ("/elsewhere/other-model", 2),
    ):
        (folder / "en/adapter_config.json").write_text(
            json.dumps({**config, "base_model_name_or_path": name})
        )
        assert run(*given, "--force") == code
        assert code == 0 or f"source.adapter: en was trained on '{name}'" in capsys.readouterr().err


def test_stored_embeddings_stay_with_the_adapter(done):
    """What merging keeps and dev was measured with is in the adapter that is saved and tested."""
    folder, run = done
    adapter = folder / "runs/tiny/adapters/en"
    shutil.copytree(adapter, folder / "en")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.embed_tokens.weight"
    embedding = load_file(folder / "backbone/model.safetensors")["model.embed_tokens.weight"] + 0.5
    save_file({**weights, name: embedding}, folder / "en/adapter_model.safetensors", {"format": "pt"})
    assert run("source.adapter=en", "methods=[merge]", "name=stored") == 0
    root = folder / "runs/stored"
    kept = load_file(root / "merge/seed42/adapter_model.safetensors")
    assert torch.equal(kept[name], embedding)
    found = read(root / "merge/seed42/dev_losses.json")
    best = found["by_epoch"][found["best_epoch"]]
    assert read(root / "eval/merge/seed42/scores.json")["dev_loss"] == pytest.approx(best, rel=1e-5)


def test_who_cannot_load_patterns_is_said(done, capsys):
    _folder, run = done
    assert run("lora.target_modules=[q_proj]", "methods=[merge_untrained]", "name=narrow") == 0
    sides = ["source.adapter=runs/narrow/adapters/en", "target.adapter=runs/tiny/adapters/ar"]
    mixed = [*sides, *LEARN[:2], "name=mixed"]
    capsys.readouterr()
    assert run(*mixed) == 0
    assert "final/seed42 has modules of different ranks or scalings" in capsys.readouterr().out
    assert main(["merge", "run.yaml", *mixed]) == 0
    assert "vLLM and llama.cpp ignore these patterns" in capsys.readouterr().out
    assert run(*LEARN) == 0
    assert "vLLM" not in capsys.readouterr().out


def test_overrides_may_stand_after_options(done, capsys):
    _, run = done
    assert run("--force", "training.epochs=1") == 0
    assert run("--force", "training.epochs=0") == 2
    assert "training.epochs" in capsys.readouterr().err
    assert main(["adapter", "run.yaml", "--side", "target", "training.epochs=1"]) == 0
    for more in (["--nope"], ["--nope=1"], ["nope"]):
        with pytest.raises(SystemExit):
            run("--force", *more)


@pytest.mark.usefixtures("done")
def test_one_step_looks_first_too(capsys):
    assert main(["adapter", "run.yaml", "--side", "source", "source.adapter=nope"]) == 2
    assert "nope" in capsys.readouterr().err
    shutil.rmtree("runs/tiny/merged")
    assert main(["merge", "run.yaml"]) == 0
    capsys.readouterr()
    assert main(["learn", "run.yaml", "control.every=100", "control.micro_dev=4"]) == 2
    assert "learn/seed42: it would make no round" in capsys.readouterr().err
    task = Path("task.yaml").read_text()
    Path("task.yaml").write_text(task.replace("ar-micro_dev.jsonl", "ar-train.jsonl"))
    assert main(["learn", "run.yaml", "control.every=2", "control.micro_dev=4"]) == 2
    assert "share the example" in capsys.readouterr().err
    assert not Path("runs/tiny/learn").exists()


@pytest.mark.parametrize("content", ["null", "[]", "{", '{"dev_loss": "x"}'])
def test_a_damaged_evaluation_is_said(done, capsys, content):
    folder, _ = done
    (folder / "runs/tiny/eval/grid/seed42/scores.json").write_text(content)
    assert main(["compare", "run.yaml", "grid", "lora_target"]) == 2
    assert "holds no evaluation that can be read" in capsys.readouterr().err


def test_a_damaged_adapter_is_said(done, capsys):
    folder, run = done
    weights = folder / "runs/tiny/adapters/ar/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert run() == 2
    assert "adapters/ar is damaged: adapter_model.safetensors" in capsys.readouterr().err
    assert run("--force") == 0


def test_a_device_that_is_not_here_is_said(done, capsys):
    _, run = done
    assert run("device=cuda:99", "name=other") == 2
    assert "device: 'cuda:99' cannot be used here" in capsys.readouterr().err
