"""Other rows of the target: draws of the training rows, folds, and all that are labelled."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.helpers.run import write_setting

import grasp_lora
from grasp_lora import GraspError
from grasp_lora.control.noise import Look
from grasp_lora.control.rounds import read_rounds
from grasp_lora.control.selection import select_ratio
from grasp_lora.experiment import start
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.methods.plan import plan
from grasp_lora.metrics.significance import approximate_randomisation
from grasp_lora.reporting.compare import read_results
from grasp_lora.stages.folds import choose_by_folds
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Fold, Model, Rows
from grasp_lora.workspace.records import DevLosses, LearnedRatio
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.rows import Row
from grasp_lora.workspace.stage import behind, inside

CONFIG = """
name: samples
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar, draws: 2, train_examples: 6}
training: {epochs: 2, learning_rate: 1e-2}
control: {micro_dev: 4, every: 2, p_min: 0.0}
methods: [lora_source, merge, joint, grid, cross_validate, grasp]
variants: {by_curve: {select: curve, margin: 0.5}}
grid: [0.0, 0.5]
cross_validate: 2
final: {refit: true}
max_length: 40
max_new_tokens: 6
evaluation: {generate: 0}
"""
LABELLED = {"train": 6, "dev": 4, "micro_dev": 4}


def write_pool(folder):
    write_setting(folder, CONFIG)
    lines = (json.dumps({"text": f"more {i}", "title": f"m{i}"}) for i in range(5))
    (folder / "pool.jsonl").write_text("\n".join(lines))
    text = (folder / "task.yaml").read_text()
    (folder / "task.yaml").write_text(text.replace("ar: {train", "ar: {pool: pool.jsonl, train"))
    return folder


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def result(setting):
    return grasp_lora.run(setting / "run.yaml", runs=setting / "runs")


def planned(setting, **overrides):
    x = start(setting / "run.yaml", {"runs": setting / "runs", **overrides})
    run = RunDirectory(x.config.folder, Resources())
    return {stage.name: stage for stage in plan(x)}, run


def ids(rows, run):
    return {example.id for example in rows.resolve(run)}


def row(result, name):
    return Row.read(result.folder / name)


# Draws


def test_a_draw_is_a_sample_of_train_and_pool(setting):
    stages, run = planned(setting)
    own, drawn = (stages[f"{place}adapters/ar"].given["train"] for place in ("", "draws/1/"))
    everything = [*Rows(own.task, "ar", "train").resolve(run), *Rows(own.task, "ar", "pool").resolve(run)]
    found = [own.resolve(run), *(replace(drawn, draw=n).resolve(run) for n in (1, 2))]
    assert found[0] == everything[:6]
    for sample in found:
        assert len({example.id for example in sample}) == 6
        assert set(sample) <= set(everything)
    assert len({frozenset(sample) for sample in found}) == 3
    assert drawn.resolve(RunDirectory(run.root, Resources())) == found[1]


def test_only_what_the_rows_lie_behind_is_made_for_each_draw(result):
    made = {path.parent.relative_to(result.folder).as_posix() for path in result.folder.rglob("done.json")}
    assert {"draws/1/adapters/ar", "draws/1/learn/seed42", "draws/1/grid/p0.50-seed42"} <= made
    assert not {"draws/1/adapters/en", "draws/1/eval/lora_source/seed42"} & made
    counts = {one.method: [r.draw for r in result.rows if r.method == one.method] for one in result.rows}
    assert counts.pop("lora_source") == [0]
    assert set(map(tuple, counts.values())) == {(0, 1)}


def test_deviations_are_over_draws(result):
    losses = [row(result, f"{place}eval/merge/seed42").test_loss for place in ("", "draws/1/")]
    assert losses[0] != losses[1]
    mean, half = sum(losses) / 2, abs(losses[0] - losses[1]) / 2
    shown = f"{mean:.4f} ± {math.sqrt(2) * half:.4f}"
    summary = (result.folder / "report/summary.md").read_text()
    assert shown in summary
    assert "±: over 2 draws of the training rows, and fewer than 5 are an indication" in summary
    (read,) = read_results(result.folder, "merge")
    assert [r.draw for r in read.rows] == [0, 1]


def test_a_draw_needs_rows_to_draw_from(setting):
    stages, run = planned(setting, **{"target.train_examples": 13})
    with pytest.raises(GraspError, match=r"samples 13 training rows of 'ar', and there are no more: prepare"):
        stages["draws/1/adapters/ar"].given["train"].resolve(run)


# Folds


@given(st.lists(st.integers(0, 6), min_size=2, max_size=20), st.integers(2, 5), st.integers(0, 3))
def test_folds_part_the_rows_and_keep_groups_together(groups, parts, repeat):
    rows = [Example(str(i), "p\n", "t", group=f"g{group}" if group else "") for i, group in enumerate(groups)]
    held_out = [Fold(number, parts, repeat, held_out=True).part(rows) for number in range(parts)]
    assert sorted(int(example.id) for fold in held_out for example in fold) == list(range(len(rows)))
    for number, out in enumerate(held_out):
        trained = Fold(number, parts, repeat).part(rows)
        assert set(out).isdisjoint(trained)
        assert len(out) + len(trained) == len(rows)
        assert not {one.group for one in out if one.group} & {one.group for one in trained if one.group}


def test_another_repeat_parts_them_anew():
    rows = [Example(str(i), "p\n", "t") for i in range(12)]
    assert Fold(0, 3, 0).part(rows) != Fold(0, 3, 1).part(rows)


def test_nothing_behind_a_folds_score_was_given_a_row_that_it_holds_out(setting):
    stages, run = planned(setting)
    for place in ("", "draws/1/"):
        choice = stages[f"{place}folds/seed42"]
        everything = set[str]()
        for runs in choice.given["trained"].values():
            assert len(runs) == len(choice.given["held_out"]) == 4  # two folds, twice
            for made, rows in zip(runs, choice.given["held_out"], strict=True):
                held_out = ids(rows, run)
                assert made.given["dev"] == rows
                assert held_out
                everything |= held_out
                for stage in behind(made):
                    given = {k: v for k, v in stage.given.items() if (stage, k) != (made, "dev")}
                    for value in inside(given):
                        if isinstance(value, Rows) and value.language == "ar":
                            assert not ids(value, run) & held_out, stage.name
        assert len(everything) == sum(LABELLED.values())


def test_folds_choose_by_the_mean_over_their_rows(tmp_path):
    """By hand: at 0.5 (3 * 1.0 + 1 * 2.0) / 4 = 1.25 after one epoch, at 0.0 1.5 or more."""
    losses = {0.0: ([2.0, 1.5, 1.6], [2.0, 1.5, 1.7]), 0.5: ([2.0, 1.0, 1.2], [2.0, 2.0, 1.8])}
    trained = {}
    for p, folds in losses.items():
        trained[p] = [tmp_path / f"{p}-{i}" for i in range(2)]
        for folder, by_epoch in zip(trained[p], folds, strict=True):
            folder.mkdir()
            DevLosses(by_epoch, 0).write(folder)
    (tmp_path / "best").mkdir()
    choose_by_folds(None, tmp_path / "best", trained=trained, held_out=[[1, 2, 3], [4]])
    found = LearnedRatio.read(tmp_path / "best")
    assert found.p == 0.5
    assert found.dev_loss == {"0.0": 1.5, "0.5": 1.25}
    best = DevLosses.read(tmp_path / "best")
    assert best.by_epoch == pytest.approx([2.0, 1.25, 1.35])
    assert best.best_epoch == 1


def test_the_last_run_has_all_rows_and_what_the_folds_chose(result):
    chosen, epochs = (kind.read(result.folder / "folds/seed42") for kind in (LearnedRatio, DevLosses))
    found = row(result, "eval/cross_validate/seed42")
    assert (found.labels, found.folds) == (LABELLED, 2)
    assert found.p == chosen.p
    assert found.steps == (2 + epochs.best_epoch) * 14  # the target's adapter has its two epochs
    assert found.dev_loss is None
    assert "folds/all/adapters/ar" in found.made_by


def test_more_folds_than_rows_are_refused_before_any_training(setting):
    with pytest.raises(
        GraspError, match=r"folds/seed42: 12 of its folds hold nothing out: set cross_validate"
    ):
        grasp_lora.run(
            setting / "run.yaml",
            runs=setting / "runs",
            methods=["cross_validate"],
            cross_validate=20,
            variants={},
            **{"name": "many", "target.draws": 1},
        )
    assert not (setting / "runs/many/adapters").exists()


def test_folds_choose_no_rate(setting):
    stages, _ = planned(
        setting, **{"tune.learning_rate": [0.5], "methods": ["cross_validate"], "variants": {}}
    )
    assert not any(name.startswith("tune/") for name in stages)


def test_a_grid_that_a_metric_chooses_has_draws(setting):
    """Its evaluations on dev are of each draw's own adapters."""
    given = {"methods": ["grid"], "select_by": "chrf", "evaluation.metrics": ["chrf"], "variants": {}}
    stages, _ = planned(setting, **given, **{"evaluation.generate": 1})
    scored = stages["draws/1/grid/seed42"].given["scores"][0.5]
    assert scored.name == "draws/1/dev/grid/p0.50-seed42"
    assert scored.given["adapter"].name == scored.given["behind"].adapter.name == "draws/1/grid/p0.50-seed42"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"tune.learning_rate": [1e-3, 1.0000001e-3]},
            "tune.learning_rate: it has two rates that are the same",
        ),
        ({"target.adapter": "/some/adapter"}, "each fold trains the target's adapter on its own rows"),
        ({"final.training.average": True}, "it chooses the number of epochs"),
        ({"final.training.max_steps": 3}, "it chooses the number of epochs, and final.training.max_steps"),
        ({"final.pruning": "every_step"}, "it prunes with a fixed mask"),
    ],
)
def test_what_does_not_go_with_folds_is_said(setting, overrides, message):
    with pytest.raises(GraspError, match=message):
        planned(setting, methods=["cross_validate"], variants={}, **{"final.refit": False}, **overrides)


# All labelled rows


def test_a_refit_has_all_rows_and_looks_at_none(setting, result):
    stages, run = planned(setting)
    for method, last in (("merge", "merge"), ("grasp", "final"), ("grid", "grid")):
        made = stages[f"refit/{last}/seed42"]
        line = [s for s in behind(made) if s.name.startswith("refit/")]
        assert {"refit/adapters/ar", "refit/merged"} <= {s.name for s in line}
        for stage in line:
            if "train" in stage.given:
                assert len(stage.given["train"].resolve(run)) == 14
                assert stage.given["dev"] is None
        found = row(result, f"eval/{method}_refit/seed42")
        assert (found.labels, found.dev_loss) == (LABELLED, None)
        assert found.p == row(result, f"eval/{method}/seed42").p
        best = [DevLosses.read(result.folder / name).best_epoch for name in ("adapters/ar", f"{last}/seed42")]
        assert found.steps == 14 * sum(best)
    assert not any("refit/folds" in name or "merge_random_refit" in name for name in stages)


def test_every_method_is_fitted_again_but_those_without_target_rows(result):
    names = {one.method for one in result.rows}
    assert {name for name in names if name.endswith("_refit")} == {
        f"{name}_refit" for name in ("merge", "joint", "grid", "grasp", "by_curve")
    }
    joint = row(result, "eval/joint_refit/seed42")
    assert (joint.steps, joint.labels) == (4 * 14, LABELLED)


def test_the_data_says_what_a_refit_is_compared_with(result):
    with (result.folder / "report/comparisons.csv").open() as file:
        firsts = {line["second"]: line["first"] for line in csv.DictReader(file)}
    assert firsts["merge"] == "grasp"
    assert firsts["merge_refit"] == "grasp_refit"
    assert not {"grasp", "grasp_refit"} & firsts.keys()


def test_the_refit_of_the_chosen_method_is_deployed(result):
    assert result.adapter.relative_to(result.folder).parts[0] == "refit"
    assert "; on all labelled rows (refit/" in result.verdict[0]


def test_what_was_best_untouched_stays_untouched(setting):
    """At a rate that spoils everything, epoch 0 is best: the refit is its start, pruned as the method's."""
    rate = {"final.training.learning_rate": 9.0, "name": "untouched", "target.draws": 1}
    found = grasp_lora.run(setting / "run.yaml", runs=setting / "runs", methods=["grid"], grid=[0.5], **rate)
    assert DevLosses.read(found.folder / "grid/seed42").best_epoch == 0
    weights = load_file(found.folder / "refit/grid/seed42/adapter_model.safetensors")
    merged = load_file(found.folder / "refit/merged/adapter_model.safetensors")
    mask = load_file(found.folder / "refit/grid/seed42/mask.safetensors")
    assert mask
    for name, keep in mask.items():
        stored = name.replace(".default", "")
        assert torch.equal(weights[stored], merged[stored] * keep)


@pytest.mark.parametrize(
    ("file", "other", "methods", "limit"),
    [
        ("pool", "ar-test", ["merge"], 6),
        ("pool", "ar-test", ["merge"], None),
        ("ar-dev", "ar-train", ["cross_validate"], 6),
        ("ar-dev", "ar-test", ["merge"], 6),
    ],
)
def test_rows_of_two_splits_are_refused_before_any_training(tmp_path, file, other, methods, limit):
    """A draw may take any row of the pool; folds hold out rows of any labelled split."""
    folder = write_pool(tmp_path)
    twice = (folder / f"{file}.jsonl").read_text().splitlines()[0]
    path = folder / f"{other}.jsonl"
    path.write_text(path.read_text() + twice + "\n")
    with pytest.raises(GraspError, match="share the example"):
        grasp_lora.run(
            folder / "run.yaml",
            runs=folder / "runs",
            methods=methods,
            variants={},
            **{"final.refit": False, "target.train_examples": limit},
        )
    assert not list((folder / "runs").rglob("done.json"))


def test_a_refit_of_nothing_is_said(setting, caplog):
    stages, _ = planned(setting, methods=["zero_shot", "lora_source"], variants={})
    assert not any("refit" in name for name in stages)
    assert "final.refit does nothing: no method here trains on the target's rows" in caplog.text


def test_a_refit_of_steps_is_refused(setting):
    with pytest.raises(
        GraspError, match=r"final\.refit repeats epochs, and max_steps of merge/seed42 counts steps"
    ):
        planned(setting, methods=["merge"], **{"final.training.max_steps": 3})


def test_a_refit_has_all_rows_that_any_variant_looks_at(setting):
    given = {"control.micro_dev": 2, "variants": {"big": {"micro_dev": 4}}, "methods": ["merge"]}
    stages, run = planned(setting, **given)
    assert len(stages["refit/variants/big/seed42"].given["train"].resolve(run)) == 14


# Rates


def test_a_rate_is_chosen_on_dev_for_every_training(setting):
    overrides = {"name": "tuned", "tune.learning_rate": [1e-6, 1e-2], "target.draws": 1}
    methods = ["merge", "grid", "optuna"]
    found = grasp_lora.run(
        setting / "run.yaml", runs=setting / "runs", methods=methods, optuna={"trials": 1}, **overrides
    )
    for name in ("adapters/ar", "merge/seed42", "grid/p0.50-seed42"):
        by_rate = {
            rate: DevLosses.read(found.folder / f"tune/{name}-lr{rate:g}").best for rate in (1e-6, 1e-2)
        }
        chosen = LearnedRatio.read(found.folder / name)
        assert chosen.learning_rate == min(by_rate, key=by_rate.get)
        assert DevLosses.read(found.folder / name).best == min(by_rate.values())
    grid = LearnedRatio.read(found.folder / "grid/seed42")
    best = LearnedRatio.read(found.folder / f"grid/p{grid.p:.2f}-seed42")
    assert grid.learning_rate == best.learning_rate
    assert not (found.folder / "tune/adapters/en-lr0.01").exists()
    merge = row(found, "eval/merge/seed42")
    assert (merge.steps, merge.choosing_steps) == (24, 24)
    of = {one: LearnedRatio.read(found.folder / one).learning_rate for one in ("merge/seed42", "adapters/ar")}
    assert list(merge.rates.items()) == list(of.items())  # its own one first
    with (found.folder / "report/tables/losses.csv").open(encoding="utf-8") as file:
        shown = {line["method"]: line["rate"] for line in csv.DictReader(file)}
    assert shown[merge.title] == str(of["merge/seed42"])
    assert row(found, "eval/grid/seed42").exhaustive
    assert not merge.exhaustive
    log = (found.folder / "refit/merge/seed42/train_log.jsonl").read_text().splitlines()
    chosen = LearnedRatio.read(found.folder / "merge/seed42").learning_rate
    first = next(json.loads(line) for line in log if "learning_rate" in line)
    assert first["learning_rate"] <= chosen


# What the log of one learning run teaches by two rules


def test_a_variant_of_the_rule_alone_reads_the_same_log(result):
    folder = result.folder / "learn/by_curve-seed42"
    rounds = read_rounds(result.folder / "learn/seed42")
    expected = select_ratio(rounds, "curve").best_ratio
    assert LearnedRatio.read(folder).p == row(result, "eval/by_curve/seed42").p == expected
    assert not (folder / "rounds.jsonl").exists()
    assert (
        row(result, "eval/by_curve/seed42").choosing_steps == row(result, "eval/grasp/seed42").choosing_steps
    )


def test_the_report_says_what_speaks_against_a_ratio(result):
    summary = (result.folder / "report/summary.md").read_text()
    p = LearnedRatio.read(result.folder / "learn/seed42").p
    assert f"- GRASP, draw 0: p* = {p:.3f} is from 18 probes, fewer than 30" in summary
    assert "- GRASP, draw 1: p* = " in summary
    assert "- by_curve, draw 0: p* = " in summary
    other = LearnedRatio.read(result.folder / "draws/1/learn/seed42").p
    assert f"Of the other draws it is {other:.4f}." in summary
    ratios = (p, other)
    spread = f"{sum(ratios) / 2:.3f} ± {abs(p - other) / math.sqrt(2):.3f}"
    assert (
        next(line for line in summary.splitlines() if line.startswith("| GRASP  ")).split("|")[2].strip()
        == spread
    )
    assert "On 4 dev rows, before any fine-tuning at it, 0.00, " in summary
    look = Look.read(result.folder / "learn/seed42")
    table = list(csv.DictReader((result.folder / "report/on_dev.csv").open()))
    own = [line for line in table if line["draw"] == "0"]
    assert [float(line["p"]) for line in own] == sorted(look.dev)
    assert {line["draw"] for line in table} == {"0", "1"}
    for line in own:
        expected = look.difference(float(line["p"]), p)
        found = [float(line[key]) for key in ("reward_difference_from_p_star", "low", "high")]
        assert found == pytest.approx(expected)


# What was kept of the source


def test_the_source_rows_that_measure_what_was_kept(setting, result):
    """Against a loss of our own."""
    x = start(setting / "run.yaml", {"runs": setting / "runs"})
    resources, model = Resources(), Model(x.config.backbone, device="cpu")
    rows = resources.examples(x.rows(x.config.source, "dev"))
    for name, folder in (("merge", "merge/seed42"), ("lora_source", "adapters/en")):
        backbone = resources.backbone(model)
        loss = resources.loss(rows, backbone, x.limits)
        adapted = load_adapter(backbone.model, result.folder / folder, trainable=False)
        found = row(result, f"eval/{name}/seed42").source_losses
        assert found == {"en": pytest.approx(loss(adapted), rel=1e-5)}
    summary = (result.folder / "report/summary.md").read_text()
    assert "| en dev |" in summary
    before = DevLosses.read(result.folder / "adapters/en").best
    assert f"en dev: loss on the source's dev rows, {before:.4f} with its own adapter;" in summary


def test_a_source_without_dev_rows_has_no_such_column(setting):
    x = start(setting / "run.yaml", {"runs": setting / "runs"})
    english = {"train": x.task.languages["en"]["train"]}
    task = x.task.model_copy(update={"languages": x.task.languages | {"en": english}})
    x = replace(x, task=task, config=x.config.model_copy(update={"methods": ("zero_shot",), "variants": {}}))
    stages = plan(x)
    assert next(s for s in stages if s.name == "eval/zero_shot/seed42").given["sources"] == {}
    rows = [value for s in stages for value in inside(s.given) if isinstance(value, Rows)]
    assert {one.language for one in rows} == {"ar"}


# Groups


def test_rows_say_which_of_their_examples_belong_together(tmp_path):
    folder = write_setting(tmp_path, CONFIG)
    for path in folder.glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        grouped = [line | {"group": f"g{i // 2}"} for i, line in enumerate(lines)]
        path.write_text("\n".join(map(json.dumps, grouped)))
    (folder / "task.yaml").write_text((folder / "task.yaml").read_text() + "group: group\n")
    methods = {"methods": ["zero_shot", "lora_source"], "variants": {}, "target.draws": 1}
    found = grasp_lora.run(folder / "run.yaml", runs=folder / "runs", **methods)
    assert found.rows[0].groups == ["g0", "g0", "g1", "g1", "g2", "g2"]
    assert found.rows[0].dev_groups == ["g0", "g0", "g1", "g1"]
    table = list(csv.DictReader((found.folder / "report/comparisons.csv").open()))
    assert "|clusters:3|" in table[0]["signature"]
    assert table[0]["signature"].endswith("|rows:6|draws:1,1|seeds:1,1|steps:0,0|choosing:0,0|folds:0,0")
    one, other = (
        Row.read(found.folder / f"eval/{name}/seed42").test_losses for name in ("zero_shot", "lora_source")
    )
    expected = approximate_randomisation(one, other, groups=found.rows[0].groups)
    assert float(table[0]["p_value"]) == pytest.approx(expected)
