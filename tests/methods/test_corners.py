"""The corners of one ratio for each adapter are what a practitioner compares by hand."""

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.run import CONFIG, write_setting

import grasp_lora
from grasp_lora.errors import GraspError
from grasp_lora.workspace.records import DevLosses, LearnedRatio

CORNERS = {"0.00+1.00": "sequential", "1.00+0.00": "target_on", "0.00+0.00": "merge"}
GIVEN = {
    "methods": ["sequential", "target_on", "merge", "prune_after", "grid", "sweep"],
    "seeds": [42],
    "variants": {},
    "grid": [[0, 1], [0.5, 0.2], 0.3],
    "sweep": {"ratios": [[0, 1], [1, 0], [0, 0]]},
    "combine": {},
    "lora": {"dropout": 0.1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("corners"), CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = grasp_lora.run("run.yaml", **GIVEN)
    return folder / result.folder


@pytest.mark.parametrize(("corner", "method"), CORNERS.items())
def test_a_corner_trains_to_what_the_baseline_trains_to(run, corner, method):
    made, own = run / f"fixed/p{corner}-seed42", run / f"{method}/seed42"
    weights, expected = (load_file(folder / "adapter_model.safetensors") for folder in (made, own))
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-5, rtol=1e-4)
    losses = [DevLosses.read(folder) for folder in (made, own)]
    assert losses[0].by_epoch == pytest.approx(losses[1].by_epoch, abs=1e-5)
    assert len(set(losses[0].by_epoch)) > 1


def test_a_grid_may_have_both_kinds_of_ratios(run):
    found = LearnedRatio.read(run / "grid/seed42")
    assert sorted(found.dev_loss) == ["0.0, 1.0", "0.3", "0.5, 0.2"]
    best = min(found.dev_loss, key=found.dev_loss.get)
    assert str(found.p) == best
    summary = (run / "report/summary.md").read_text()
    assert "p = 0.00, 1.00" in summary or "0.00, 1.00" in summary


def test_pruning_at_every_step_takes_one_ratio(tmp_path, monkeypatch):
    monkeypatch.chdir(write_setting(tmp_path, CONFIG))
    with pytest.raises(GraspError, match="pruning at every step takes one ratio for all adapters"):
        grasp_lora.run("run.yaml", methods=["merge_prune"], grid=[[0, 1]], variants={})
