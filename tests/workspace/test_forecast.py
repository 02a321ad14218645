"""What a run would take: beside what a real one recorded, and without a weight being read."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from tests.helpers.run import CONFIG, write_setting
from tests.helpers.tokenizer import tiny_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import grasp_lora
from grasp_lora.cli.main import main
from grasp_lora.cli.plan import show
from grasp_lora.cost import measure
from grasp_lora.experiment import forecast
from grasp_lora.lm.adapters import Lora, adapter_weights, new_adapter
from grasp_lora.lm.encoding import Encoded
from grasp_lora.lm.footprint import Batch, shapes_of
from grasp_lora.workspace.records import ENVIRONMENT_FILE, Begun, Done
from grasp_lora.workspace.unfinished import PARTIAL

SMALL = (
    CONFIG[: CONFIG.index("methods:")]
    + "methods: [merge, grasp]\nmax_length: 40\nmax_new_tokens: 6\nevaluation: {generate: 2}\n"
)
CPU = {"dtype": "float32", "device": "cpu", "revision": None}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("setting"), SMALL)
    grasp_lora.run(folder / "run.yaml", runs=str(folder / "runs"))
    return folder


def of(setting, **overrides):
    return forecast([setting / "run.yaml"], {"runs": str(setting / "runs"), **overrides})


def seconds_of(found):
    return {one.name: seconds for one, seconds in zip(found.planned, found.seconds, strict=True)}


def tree(folder):
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")
    }


def test_it_writes_nothing_and_reads_no_weights(tmp_path, capsys, monkeypatch):
    setting = write_setting(tmp_path, SMALL)
    (setting / "backbone" / "model.safetensors").write_bytes(b"no weights")
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert main(["run", "run.yaml", "--dry-run"]) == 0
    assert tree(tmp_path) == before
    shown = capsys.readouterr().out
    assert "new                  44        ? runs/tiny/adapters/ar\n" in shown
    assert "Time: unknown for 7 stages. No finished run in the same folder" in shown
    assert ", an estimate from shapes." in shown


def test_the_seconds_are_those_of_the_runs_own_finished_stages(setting, tmp_path):
    shutil.copytree(setting / "runs", tmp_path / "runs")
    run = tmp_path / "runs" / "tiny"
    spent = {name: Done.read(run / name).seconds for name in ("merge/seed42", "adapters/ar", "adapters/en")}
    left, made = run / "final" / f"seed42{PARTIAL}", Done.read(run / "final/seed42")
    (run / "final/seed42").rename(left)
    (left / Done.FILE).unlink()
    Begun(made.work, made.format, made.inputs).write(left)
    shutil.rmtree(run / "adapters" / "ar")
    found = of(setting, runs=str(tmp_path / "runs"))
    states = {one.name: one.state for one in found.planned}
    assert (states["final/seed42"], states["adapters/ar"], states["adapters/en"]) == (
        "unfinished",
        "new",
        "done",
    )
    passes = {one.name: one.passes for one in found.planned}
    seconds = seconds_of(found)
    assert seconds["adapters/en"] == 0.0
    assert seconds["adapters/ar"] == pytest.approx(
        spent["adapters/en"] / passes["adapters/en"] * passes["adapters/ar"]
    )
    # no other final run: as those of the same work that are done
    done = {name: one for name, one in spent.items() if states[name] == "done"}
    pace = sum(done.values()) / sum(passes[name] for name in done)
    assert seconds["final/seed42"] == pytest.approx(pace * passes["final/seed42"])
    assert found.learned_from == (run,)


def test_a_run_beside_it_tells_where_backbone_dtype_and_device_are_the_same(setting, tmp_path, capsys):
    own = setting / "runs" / "tiny"
    found = of(setting, name="other")
    recorded = Done.read(own / "eval/grasp/seed42")
    assert (found.learned_from, found.unknown, found.recorded) == ((own,), (), True)
    assert seconds_of(found)["merged"] == pytest.approx(Done.read(own / "merged").seconds)
    passing = [path.parent for path in own.rglob("*/*/done.json")]  # not the merge, nor the report
    assert found.memory == max(Done.read(folder).peak_memory_bytes for folder in passing)
    assert found.memory >= recorded.peak_memory_bytes
    assert seconds_of(of(setting, name="other", **{"evaluation.generate": 1}))["eval/grasp/seed42"] is None
    assert all(one.name.startswith("eval/") for one in of(setting, name="other", max_new_tokens=5).unknown)
    assert not of(setting, name="other", token_budget=1000).recorded
    assert not of(setting, name="other", dtype="bfloat16").learned_from
    shutil.copytree(own, tmp_path / "runs" / "tiny")
    there = tmp_path / "runs" / "tiny" / ENVIRONMENT_FILE
    there.write_text(json.dumps(json.loads(there.read_text()) | {"processor": "another"}))
    assert not of(setting, name="other", runs=str(tmp_path / "runs")).learned_from
    assert main(["plan", str(setting / "run.yaml"), f"runs={setting}/runs", "name=other"]) == 0
    assert f"by what such stages took in {own}.\n" in capsys.readouterr().out
    assert main(["plan", str(setting / "run.yaml"), f"runs={setting}/runs"]) == 0
    assert capsys.readouterr().out.endswith("All is done.\n")


@pytest.mark.parametrize("name", [Done.FILE, "dev_losses.json"])
def test_what_run_would_refuse_as_damaged_is_called_so(setting, tmp_path, capsys, name):
    shutil.copytree(setting / "runs", tmp_path / "runs")
    (tmp_path / "runs/tiny/adapters/ar" / name).write_text("{")
    states = {one.name: one.state for one in of(setting, runs=str(tmp_path / "runs")).planned}
    assert (states["adapters/en"], states["adapters/ar"], states["merged"]) == ("done", "damaged", "changed")
    command = ["run", str(setting / "run.yaml"), f"runs={tmp_path}/runs"]
    assert main([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "All is done." not in shown
    assert "Of damaged stages a file is missing or was changed: run --force" in shown
    assert main(command) == 2
    assert "adapters/ar " in capsys.readouterr().err


def test_the_disk_is_about_what_a_run_leaves(setting, tmp_path):
    left = sum(path.stat().st_size for path in (setting / "runs" / "tiny").rglob("*") if path.is_file())
    found = of(setting, runs=str(tmp_path / "none"))
    assert left / 2 < found.disk < left * 2
    assert found.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_it_says_what_does_not_fit(setting, capsys):
    show(replace(of(setting, name="other"), free=10), stages=False)
    assert "Warning: that does not fit. Free some space, or set runs=FOLDER" in capsys.readouterr().out


@pytest.mark.slow
def test_the_memory_is_about_what_a_run_takes(tmp_path):
    setting = write_setting(tmp_path, SMALL.replace("[merge, grasp]", "[lora_target]"))
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes |= {"vocab_size": 200_000, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    big = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))  # 0.2 GB
    big.save_pretrained(setting / "backbone")
    del big
    tiny_tokenizer().save_pretrained(setting / "backbone")
    with measure() as idle:
        pass
    found = of(setting)
    assert not found.recorded
    run = grasp_lora.run(setting / "run.yaml", runs=str(setting / "runs")).folder
    peak = max(Done.read(path.parent).peak_memory_bytes for path in run.rglob("done.json"))
    taken, said = peak - idle.peak_memory_bytes, found.memory - idle.peak_memory_bytes
    assert taken > 2e8
    assert taken / 2 < said < taken * 2


def test_the_shapes_are_those_of_the_model(setting):
    lora = Lora(target_modules=("q_proj", "down_proj"), r=3, rank_pattern={"down_proj": 5})
    shapes = shapes_of(str(setting / "backbone"), lora, **CPU)
    model = AutoModelForCausalLM.from_pretrained(setting / "backbone")
    assert shapes.parameters == sum(value.numel() for value in model.parameters())
    assert (shapes.vocabulary, shapes.hidden, shapes.inner, shapes.layers) == (48, 16, 24, 2)
    adapted = new_adapter(model, lora)
    assert shapes.adapter == sum(value.numel() for value in adapter_weights(adapted).values())
    assert shapes_of("nobody/nothing", Lora(), **CPU) is None


def test_the_shapes_of_a_packaged_backbone_need_no_conversion(tmp_path, monkeypatch):
    monkeypatch.setenv("GRASP_CACHE", str(tmp_path))
    shapes = shapes_of("packaged:gemma-3-270m", Lora(), **CPU)
    assert shapes.parameters == 268_098_176  # of which 170 million are embeddings
    assert shapes.weights == 4 * shapes.parameters
    assert os.listdir(tmp_path) == []


def test_the_bytes_of_a_batch_worked_by_hand(setting):
    """Two layers of 16, MLPs of 24, 2 heads of 8 over one of keys and values; q_proj and v_proj adapted."""
    shapes = shapes_of(str(setting / "backbone"), Lora(), **CPU)
    rows = [Encoded((1,) * 10, 3), Encoded((1,) * 8, 5)]
    batch = Batch.of(rows, 2)
    assert batch == Batch(20, 12, 10)
    assert Batch.of([], 2) == Batch(0, 2, 0)
    # of a token in a layer: queries and what comes out, keys and values for each head, three times the MLP's
    kept = 2 * (2 * 16 + 2 * 16 + 3 * 24)
    floats = 2 * 2 * 16 + 16 + 2 * 2 * 16  # what is normed, what adapters see; dropout's noise is as much
    token = 4 * (kept + floats + 2 * 2 * 16)
    passing = 20 * (2 * 16 + 3 * 24) * 4  # one layer's way back makes more than 3 * 12 * 48 * 4 of logits
    mask = 20 * 10 * 4
    assert shapes.training(400, Batch(20, 24, 10)) - shapes.training(400, batch) == 3 * 24 * 48 * 4 - passing
    # six copies and a mask of an adapter of 100 float32
    assert shapes.training(400, batch) == 6 * 400 + 100 + mask + 20 * token + passing
    again = 20 * (2 * 16 * 4 + token // 2)  # each layer's input, and one layer
    assert shapes.training(400, batch, checkpointing=True) == 6 * 400 + 100 + mask + again + passing
    assert shapes.looking(400, batch) == 400 + 2 * 12 * 48 * 4 + 20 * (4 * 16 + 3 * 24) * 4


def test_a_row_alone_has_no_mask_and_repeats_no_keys(setting):
    shapes = shapes_of(str(setting / "backbone"), Lora(dropout=0.0), **CPU)
    kept = 2 * (2 * 16 + 2 * 8 + 3 * 24)
    token = 4 * (kept + 2 * 2 * 16 + 16 + 2 * 2 * 16)  # nor has dropout noise where there is none
    assert shapes.training(400, Batch(10, 1, 10)) == 6 * 400 + 100 + 10 * token + 10 * (2 * 16 + 3 * 24) * 4


@pytest.mark.parametrize(("quantization", "each"), [("nf4", 0.5 + 1 / 64 + 1 / 4096), ("int8", 1.0)])
def test_quantized_weights_worked_by_hand(setting, quantization, each):
    """Linear layers alone: embeddings, norms and the output embedding keep the backbone's type."""
    shapes = shapes_of(str(setting / "backbone"), Lora(), **CPU, quantization=quantization)
    full = shapes_of(str(setting / "backbone"), Lora(), **CPU)
    linear = 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24)
    outputs = 2 * (16 + 8 + 8 + 16 + 24 + 24 + 16)
    scales = 4 * outputs if quantization == "int8" else 0
    assert full.weights == 4 * full.parameters
    assert shapes.weights == int(linear * each) + scales + (full.parameters - linear) * 4
    assert shapes.loading == 4 * full.parameters  # the file's weights are not those in memory


def test_shapes_draw_no_random_number(setting):
    before = torch.get_rng_state()
    shapes_of(str(setting / "backbone"), Lora(), **CPU)
    assert torch.equal(before, torch.get_rng_state())
