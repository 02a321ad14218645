"""`ratios: per_adapter` in whole runs: what is learned, searched, and the grid's default."""

import io
import json

import pytest
from rich.console import Console
from tests.helpers.run import CONFIG, write_setting

import grasp_lora
from grasp_lora.config.loading import load_config
from grasp_lora.control.rounds import read_rounds
from grasp_lora.errors import GraspError
from grasp_lora.methods.own_ratios import grid_of, none_and_grid
from grasp_lora.methods.plan import NAMES
from grasp_lora.ratios import PerAdapter
from grasp_lora.reporting.progress import progress_of
from grasp_lora.reporting.screen import frame
from grasp_lora.workspace.records import LearnedRatio, Pruned

GONE = ("grid:", "variants:")
FEW = "".join(line for line in CONFIG.splitlines(True) if not line.startswith(GONE))
FEW = FEW.replace("p_min: 0.0", "candidates: 2") + "ratios: per_adapter\n"


def test_a_run_learns_and_searches_a_ratio_for_each(tmp_path, monkeypatch):
    monkeypatch.chdir(write_setting(tmp_path, FEW))
    run = grasp_lora.run("run.yaml", methods=["grasp", "optuna"], seeds=[42], variants={}).folder
    found = LearnedRatio.read(run / "learn/seed42")
    assert isinstance(found.p, PerAdapter)
    assert list(found.adapters) == ["en", "ar"]
    assert Pruned.of(run / "final/seed42").p == found.p
    rounds = read_rounds(run / "learn/seed42")
    assert len({probe.p for one in rounds for probe in one.probes}) > 4
    searched = LearnedRatio.read(run / "learn/optuna-seed42").p
    assert isinstance(searched, PerAdapter)
    assert len(set(searched)) == 2
    log = [json.loads(line) for line in (run / "learn/seed42/train_log.jsonl").read_text().splitlines()]
    assert [one["grasp/p_curr/ar"] for one in log if "grasp/p_curr/ar" in one] == [
        r.p_next[1] for r in rounds
    ]
    assert (run / "report/trajectory.png").exists()
    assert not (run / "report/landscape.png").exists()
    assert f"Learned prune ratios of en and ar: p* = {found.p:.4f}" in (run / "report/summary.md").read_text()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(frame(progress_of(run), 100))
    assert "p en 0.400" in console.export_text()


def config_with(tmp_path, text):
    write_setting(tmp_path, text)
    return load_config(tmp_path / "run.yaml", methods=NAMES)


def test_defaults_of_two_and_of_three_adapters(tmp_path):
    config = config_with(tmp_path, FEW)
    assert (config.control.p_min, config.control.p_max, config.optuna.p_max) == (0.0, 1.0, 1.0)
    assert len(grid_of(config)) == 8
    assert (1.0, 1.0) not in grid_of(config)
    assert none_and_grid(config)[0] == PerAdapter((0.0, 0.0))
    assert len(set(none_and_grid(config))) == len(none_and_grid(config)) == 8  # [0, 0] is of the grid
    three = FEW.replace("source: {language: en}", "source: [{language: en}, {language: en, name: more}]")
    three = three.replace("weights: {en: 1.0, ar: 0.5}", "weights: null")
    with pytest.raises(GraspError, match="no default grid for 3 adapters: name its points, as grid"):
        grid_of(config_with(tmp_path, three))


WRONG = {
    "final: {pruning: every_step}": "final.pruning: every_step takes one ratio for all",
    "variants: {a: {select: curve}}": "a: select: curve is of one ratio",
    "variants: {a: {unit: tensor}}": "a: unit: tensor does not tell adapters apart",
}


@pytest.mark.parametrize(("given", "why"), WRONG.items())
def test_what_is_of_one_ratio_is_refused(tmp_path, given, why):
    with pytest.raises(GraspError, match=why):
        config_with(tmp_path, f"{FEW}{given}\n")
