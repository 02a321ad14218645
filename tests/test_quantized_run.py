"""`grasp run` on a quantized backbone: every kind of stage, and losses near those of the full weights."""

import json

import pytest
from tests.helpers.run import write_setting

from grasp_lora.cli.main import main
from grasp_lora.workspace.rows import Row

ALL = "[zero_shot, lora_target, merge, merge_prune, curve, halving, lorahub, grasp]"
FEW = [
    "seeds=[42]",
    "variants={}",
    "grid=[0.2, 0.6]",
    "halving.candidates=[0.0, 0.5]",
    "evaluation.generate=2",
]


def losses(run):
    rows = {path.parts[-3]: Row.read(path.parent) for path in (run / "eval").glob("*/seed42/done.json")}
    return {name: row.dev_loss for name, row in rows.items()}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return write_setting(tmp_path_factory.mktemp("setting"))


def run(setting, name, methods, *settings):
    more = [f"runs={setting}/runs", f"name={name}", f"methods={methods}", *FEW, *settings]
    assert main(["run", str(setting / "run.yaml"), *more]) == 0
    return setting / "runs" / name


@pytest.mark.slow
def test_every_kind_of_stage_in_nf4(setting, capsys):
    full = losses(run(setting, "full", "[zero_shot, merge, grasp]", "evaluation.deployment=false"))
    folder = run(setting, "nf4", ALL, "quantization=nf4", "training.gradient_checkpointing=true")
    said = capsys.readouterr().out
    found = losses(folder)
    assert len(found) == 8
    for method, loss in full.items():
        assert found[method] == pytest.approx(loss, abs=0.05)
        assert found[method] != loss
    done = json.loads((folder / "final/seed42/done.json").read_text())
    assert done["inputs"]["model.quantization"] == "nf4"
    assert "its linear layers in nf4, by bitsandbytes" in (folder / "final/seed42/README.md").read_text()
    assert "Note: it was trained beside linear layers in nf4" in said
