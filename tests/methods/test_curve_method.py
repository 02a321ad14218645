"""The method `curve`: one training of all ratios, and the three adapters that may come of it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.run import CONFIG, write_setting

import grasp_lora
from grasp_lora.control.measured import MeasuredCurve
from grasp_lora.errors import GraspError
from grasp_lora.ratios import PerAdapter
from grasp_lora.reporting.reading import read_run
from grasp_lora.workspace.records import Done, LearnedRatio, Pruned
from grasp_lora.workspace.rows import Row

GIVEN = {
    "methods": ["merge", "curve", "sweep"],
    "variants": {},
    "combine": {},
    "sweep": {"ratios": [0.0, 0.4]},
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("curve"), CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def made(setting, name, **curve):
    result = grasp_lora.run("run.yaml", name=name, curve=curve, **GIVEN)
    return setting / result.folder


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def finals(setting):
    return made(setting, "final", p_max=0.6, ratios=4)


def test_its_final_run_is_at_the_ratio_of_the_lowest_loss(finals):
    measured = MeasuredCurve.read(finals / "learn/curve-seed42")
    assert [point.p for point in measured.points] == [0.0, 0.2, 0.4, 0.6]
    assert {len(point.losses) for point in measured.points} == {4}
    means = {point.p: sum(point.losses) / 4 for point in measured.points}
    found = LearnedRatio.read(finals / "learn/curve-seed42")
    assert found.p == min(means, key=means.get) == Pruned.read(finals / "curve/seed42").p
    assert found.reward == pytest.approx(-means[found.p])
    assert Row.read(finals / "eval/curve/seed7").p == found.p
    assert all(bool(weight.all()) for weight in weights(finals / "learn/curve-seed42").values())


def test_its_passes_are_what_was_planned(finals):
    cost = Done.read(finals / "learn/curve-seed42").cost
    assert cost["steps"] == 16
    assert cost["forward_examples"] == 16 + 4 * 4
    planned = json.loads((finals / "plan.json").read_text())["passes"]["learn/curve-seed42"]
    assert planned == cost["forward_examples"] + cost["backward_examples"]


def test_the_report_shows_it_and_what_it_is_not(finals):
    summary = (finals / "report/summary.md").read_text()
    assert "on 4 micro-dev rows the loss is lowest at p = " in summary
    assert "It is not what finished training at each ratio gives." in summary
    assert (finals / "report/curve.svg").exists()
    assert len((finals / "report/curve.csv").read_text().splitlines()) == 5
    assert read_run(finals).curves == {"curve": (MeasuredCurve.read(finals / "learn/curve-seed42"),)}


def test_the_same_config_is_the_same_curve_byte_for_byte(setting, finals):
    again = made(setting, "again", p_max=0.6, ratios=4, adapter="cut", select="sparsest")
    files = [run / "learn/curve-seed42/curve.json" for run in (finals, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
    measured = MeasuredCurve.read(again / "learn/curve-seed42")
    assert Pruned.read(again / "curve/seed42").p == measured.free.p
    # What is cut are the dense values.
    dense, cut = weights(again / "learn/curve-seed42"), weights(again / "curve/seed42")
    for name, value in cut.items():
        assert torch.equal(value, torch.where(value == 0, 0.0, dense[name]))
    assert Pruned.read(again / "curve/seed7").p == measured.free.p
    assert (again / "learn/curve-seed7/curve.json").read_bytes() != files[1].read_bytes()


def test_one_ratio_for_each_adapter_and_trained_on(setting):
    run = made(setting, "pairs", p_max=0.5, ratios=2, per_adapter=True, adapter="trained_on")
    measured = MeasuredCurve.read(run / "learn/curve-seed42")
    assert [point.p for point in measured.points] == [(0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5)]
    pruned = Pruned.read(run / "curve/seed42")
    assert isinstance(pruned.p, PerAdapter)
    assert pruned.p == measured.best.p
    for unit, share in pruned.share_by_unit.items():
        assert share == pytest.approx(pruned.p["ar" in unit.partition("[")[2]], abs=0.2)
    assert "p = 0." in (run / "report/summary.md").read_text()


def test_a_variant_may_not_have_its_name(setting):
    with pytest.raises(GraspError, match="a variant cannot be called 'curve'"):
        grasp_lora.run("run.yaml", **GIVEN | {"variants": {"curve": {"beta": 0.0}}})


def test_a_damaged_curve_is_refused(tmp_path):
    for text in (
        "",
        "[]",
        '{"points": []}',
        '{"points": [{"p": 2, "losses": [1]}]}',
        '{"points": [{"p": 0.1}]}',
    ):
        (tmp_path / "curve.json").write_text(text)
        with pytest.raises(GraspError, match=r"curve\.json cannot be read"):
            MeasuredCurve.read(tmp_path)
