"""`grasp run` end to end on a tiny model: every stage, skipping, forcing, errors."""

import csv
import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.run import SPLITS, SVD, TASK, write_setting

from grasp_lora.cli.main import main
from grasp_lora.metrics.significance import holm
from grasp_lora.reporting.blocks import show_p_value
from grasp_lora.workspace.rows import Row


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return write_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def finished(setting):
    assert main(["run", str(setting / "run.yaml"), f"runs={setting}/runs"]) == 0
    return setting / "runs" / "tiny"


def read(path):
    return json.loads(path.read_text())


def test_the_run_directory(finished):
    stages = [
        "adapters/en",
        "adapters/ar",
        "merged",
        "learn/seed42",
        "final/seed42",
        "merge/seed42",
        "report",
    ]
    stages += [f"eval/{m}/seed42" for m in ("zero_shot", "lora_source", "lora_target", "merge", "grasp")]
    for stage in stages:
        assert read(finished / stage / "done.json")["seconds"] > 0
    assert (finished / "config.yaml").exists()
    assert {"torch", "peft", "cores", "git_commit"} <= set(read(finished / "env.json"))
    assert list((finished / "learn/seed42/tensorboard").iterdir())
    assert (finished / "report/trajectory.svg").stat().st_size > 1000
    logged = [
        json.loads(line) for line in (finished / "final/seed42/train_log.jsonl").read_text().splitlines()
    ]
    assert any("dev_loss" in entry for entry in logged)
    learned = (finished / "learn/seed42/train_log.jsonl").read_text().splitlines()
    assert [entry["step"] for entry in map(json.loads, learned) if "loss" in entry] == [10]


def test_the_ratio_is_the_best_of_the_log(finished):
    log = (finished / "learn/seed42/rounds.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in log]
    assert [r["step"] for r in rounds] == [2, 4, 6, 8, 10, 12, 14, 16]
    seen = [(r["base_reward"], r["p_curr"]) for r in rounds]
    seen += [(r["base_reward"] + x["reward"], x["p"]) for r in rounds for x in r["probes"]]
    ratio = read(finished / "learn/seed42/ratio.json")
    assert ratio["reward"] == max(seen)[0]
    assert (ratio["reward"], ratio["p"]) in seen


def test_the_final_adapter_is_sparse_and_loads_by_peft_alone(finished, setting):
    p = read(finished / "learn/seed42/ratio.json")["p"]
    shares = read(finished / "final/seed42/pruned.json")["share_by_unit"]
    assert len(shares) == 16  # two layers, q and v, A and B, two adapters
    masks = load_file(finished / "final/seed42/mask.safetensors")
    weights = load_file(finished / "final/seed42/adapter_model.safetensors")
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert (weights[name.replace(".default", "")][~mask] == 0).all()
    assert all(p - 1 / 64 <= share <= p + 0.02 for share in shares.values())
    code = (
        "import sys, torch; from peft import PeftModel; from transformers import AutoModelForCausalLM\n"
        f"m = AutoModelForCausalLM.from_pretrained({str(setting / 'backbone')!r})\n"
        f"m = PeftModel.from_pretrained(m, {str(finished / 'final/seed42')!r})\n"
        "print(sum(p.abs().sum().item() for n, p in m.named_parameters() if 'lora_' in n))\n"
        "assert not any(name.startswith('grasp') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(sum(w.abs().sum().item() for w in weights.values()), rel=1e-5)


def test_the_best_epoch_is_kept_the_start_included(finished):
    losses = read(finished / "final/seed42/dev_losses.json")
    assert losses["by_epoch"][losses["best_epoch"]] == min(losses["by_epoch"])
    scored = read(finished / "eval/grasp/seed42/scores.json")["dev_loss"]
    assert scored == pytest.approx(min(losses["by_epoch"]), rel=1e-5)
    plain = read(finished / "merge/seed42/dev_losses.json")["by_epoch"][0]
    assert read(finished / "eval/merge_untrained/seed42/scores.json")["dev_loss"] == pytest.approx(
        plain, rel=1e-5
    )


def test_the_grid_keeps_its_best_on_dev(finished):
    choice = read(finished / "grid/seed42/ratio.json")
    losses = {float(p): loss for p, loss in choice["dev_loss"].items()}
    assert losses.keys() == {0.2, 0.4, 0.6}
    assert losses[choice["p"]] == min(losses.values())
    assert read(finished / "grid/seed42/pruned.json")["p"] == choice["p"]
    scored = read(finished / "eval/grid/seed42/scores.json")["dev_loss"]
    assert scored == pytest.approx(min(losses.values()), rel=1e-5)


def test_pruning_at_every_step_is_another_result(finished):
    choice = read(finished / "merge_prune/seed42/ratio.json")
    assert {float(p) for p in choice["dev_loss"]} == {0.2, 0.4, 0.6}
    at_p = "p0.60-seed42/adapter_model.safetensors"
    stepwise, fixed = (load_file(finished / method / at_p) for method in ("merge_prune", "grid"))
    assert any(not torch.equal(stepwise[n], fixed[n]) for n in fixed)
    assert read(finished / "merge_prune/p0.60-seed42/dev_losses.json")["best_epoch"] > 0  # 0 is not pruned
    zeros = sum((w == 0).sum().item() for w in stepwise.values()) / sum(w.numel() for w in stepwise.values())
    assert zeros == pytest.approx(0.6, abs=0.02)


def test_random_probes_as_much_as_the_policy_and_learns_nothing(finished):
    runs = {}
    for name in ("learn/seed42", "learn/random-seed42"):
        runs[name] = [
            json.loads(line) for line in (finished / name / "rounds.jsonl").read_text().splitlines()
        ]
    policy, uniform = runs.values()
    assert [len(r["probes"]) for r in uniform] == [len(r["probes"]) for r in policy]
    assert {r["mu_next"] for r in uniform} == {0.4}
    assert all(0.0 <= x["p"] <= 0.8 and x["z"] == x["p"] for r in uniform for x in r["probes"])
    p = read(finished / "learn/random-seed42/ratio.json")["p"]
    assert read(finished / "random/seed42/pruned.json")["p"] == p


def test_the_ratio_is_found_once_and_trained_with_every_seed(finished):
    for method, found, trained in (
        ("grasp", "learn/seed42", "final"),
        ("optuna", "learn/optuna-seed42", "optuna"),
        ("grid", "grid/seed42", "grid"),
        ("no_anchor", "learn/no_anchor-seed42", "variants/no_anchor"),
    ):
        p = read(finished / found / "ratio.json")["p"]
        assert read(finished / trained / "seed7/pruned.json")["p"] == p
        first, second = (read(finished / f"eval/{method}/seed{s}/scores.json") for s in (42, 7))
        assert first["test_loss"] != second["test_loss"]
    assert not (finished / "grid/p0.20-seed7").exists()


def test_optuna_keeps_the_best_of_its_trials(finished):
    lines = (finished / "learn/optuna-seed42/trials.jsonl").read_text().splitlines()
    trials = [json.loads(line) for line in lines]
    ratio = read(finished / "learn/optuna-seed42/ratio.json")
    assert len(trials) == ratio["trials"] == 3
    whole = [trial for trial in trials if len(trial["dev_loss"]) == 3]  # two epochs and the start
    assert len(whole) == 3 - ratio["pruned"]
    best = min(whole, key=lambda trial: min(trial["dev_loss"]))
    assert (ratio["p"], ratio["dev_loss"]) == (best["p"], min(best["dev_loss"]))
    assert not (finished / "learn/optuna-seed42/trial").exists()


def test_a_variant_differs_in_what_it_names(finished):
    rounds = [
        [json.loads(line) for line in (finished / f"learn/{name}/rounds.jsonl").read_text().splitlines()]
        for name in ("seed42", "no_anchor-seed42")
    ]
    assert rounds[0][0]["probes"] == rounds[1][0]["probes"]  # the same first draw
    assert rounds[0][-1]["mu"] != rounds[1][-1]["mu"]
    assert read(finished / "learn/no_anchor-seed42/ratio.json")["p"] == rounds[1][-1]["p_next"]
    units = [
        list(read(finished / folder / "seed42/pruned.json")["share_by_unit"])
        for folder in ("final", "variants/by_tensor")
    ]
    assert len(units[0]) == 2 * len(units[1])  # one unit per adapter in a factor, or one for all of it


def test_the_rank_check_repeats_the_learning_run_and_sees_the_grid(finished):
    check = finished / "learn/rank_check-seed42"
    assert (check / "rounds.jsonl").read_bytes() == (finished / "learn/seed42/rounds.jsonl").read_bytes()
    found = read(check / "rank_check.json")
    final = {
        p: min(read(finished / f"grid/p{float(p):.2f}-seed42/dev_losses.json")["by_epoch"])
        for p in found["dev_loss"]
    }
    assert found["dev_loss"] == final
    assert [r["step"] for r in found["rounds"]] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    for r in found["rounds"]:
        reward_ranks = sorted(final, key=lambda p: r["rewards"][p])
        loss_ranks = sorted(final, key=lambda p: -final[p])
        squares = sum((reward_ranks.index(p) - loss_ranks.index(p)) ** 2 for p in final)
        assert r["rho"] == pytest.approx(1 - 6 * squares / (3 * 8))  # of three ratios, n (n^2 - 1) = 24


def test_costs_count_every_pass_of_a_method(finished):
    cost = read(finished / "eval/grasp/seed42/cost.json")
    rounds = (finished / "learn/seed42/rounds.jsonl").read_text().splitlines()
    evaluations = sum(1 + len({x["p"] for x in json.loads(line)["probes"]}) for line in rounds)
    learning = cost["stages"]["learn/seed42"]
    assert learning["backward_examples"] == 16  # two epochs of 8
    looked_at = len(read(finished / "learn/seed42/on_dev.json")["dev"])  # ratios, on dev and micro-dev
    assert learning["forward_examples"] == 16 + 4 * evaluations + looked_at * (4 + 4)
    epochs = len(read(finished / "final/seed42/dev_losses.json")["by_epoch"])  # the start included
    final = cost["stages"]["final/seed42"]
    assert (final["forward_examples"], final["backward_examples"]) == (
        8 * (epochs - 1) + 4 * epochs,
        8 * (epochs - 1),
    )
    total = cost["total"]
    assert total["forward_examples"] == learning["forward_examples"] + final["forward_examples"]
    grid = read(finished / "eval/grid/seed42/cost.json")
    assert set(grid["stages"]) == {*(f"grid/p{p}-seed42" for p in ("0.20", "0.40", "0.60")), "grid/seed42"}


def test_a_row_says_what_target_data_lies_behind_it(finished):
    def row(method):
        scores = read(finished / f"eval/{method}/seed42/scores.json")
        return scores["steps"], scores["choosing_steps"], scores["labels"]

    def steps(stage):  # batches of one, eight rows; the start is no epoch
        return 8 * read(finished / stage / "dev_losses.json")["best_epoch"]

    def trained(stage):
        return 8 * (len(read(finished / stage / "dev_losses.json")["by_epoch"]) - 1)

    target, rows = steps("adapters/ar"), {"train": 8, "dev": 4}
    assert row("zero_shot") == row("lora_source") == (0, 0, {})
    assert row("lora_target") == row("merge_untrained") == (target, 0, rows)
    assert row("sequential") == (steps("sequential/seed42"), 0, rows)  # no target adapter
    assert row("merge") == (target + steps("merge/seed42"), 0, rows)
    grid = {p: steps(f"grid/p{p:.2f}-seed42") for p in (0.2, 0.4, 0.6)}
    best = grid.pop(read(finished / "grid/seed42/ratio.json")["p"])
    others = [trained(f"grid/p{p:.2f}-seed42") for p in grid]
    assert row("grid") == (target + best, sum(others), rows)
    # 16 steps while the ratio is learned, and the rows that probes are scored on.
    assert row("grasp") == (target + steps("final/seed42"), 16, {**rows, "micro_dev": 4})


def test_costs_with_and_without_what_others_share(finished):
    def passes(costs):
        return sum(one["forward_examples"] + one["backward_examples"] for one in costs.values())

    row = Row.read(finished / "eval/grasp/seed42")
    assert row.choosing_passes == passes({"learn/seed42": row.costs["learn/seed42"]})
    assert set(row.all_costs) == {"learn/seed42", "final/seed42", "adapters/ar", "merged"}
    assert row.whole_cost.passes == passes(row.costs) + passes({"": row.all_costs["adapters/ar"]})
    assert set(Row.read(finished / "eval/sequential/seed42").all_costs) == {"sequential/seed42"}
    for method in ("zero_shot", "lora_source"):  # the source's adapter is not charged
        assert Row.read(finished / f"eval/{method}/seed42").whole_cost.passes == 0


def test_the_report_has_seeds_significance_costs_and_deployment(finished):
    text = (finished / "report/summary.md").read_text()
    for part in ("± ", "p-value", "Spearman's ρ", "tokens/s", "no_anchor"):
        assert part in text
    header = next(line for line in text.splitlines() if "peak MiB" in line and "runs" in line)
    assert [cell.strip() for cell in header.split("|")[6:-1]] == [
        "passes choosing",
        "passes with all",
        "peak MiB",
        *(f"speedup over {grid}, {unit}" for grid in ("merge_prune", "grid") for unit in ("time", "passes")),
    ]
    costs = {
        method: read(finished / f"eval/{method}/seed42/cost.json")["total"]
        for method in ("merge_prune", "grid", "grasp")
    }
    passes = {m: c["forward_examples"] + c["backward_examples"] for m, c in costs.items()}
    row = next(line for line in text[text.index(header) :].splitlines() if line.startswith("| GRASP"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[1] == "2"  # the learning run and the final run
    assert [cells[9], cells[11]] == [
        f"{passes[grid] / passes['grasp']:.2f}" for grid in ("merge_prune", "grid")
    ]
    scores = (finished / "report/scores.csv").read_text().splitlines()
    value = read(finished / "eval/grasp/seed7/scores.json")["test_loss"]
    assert f"grasp,0,7,test_loss,{value}" in scores
    with (finished / "report/comparisons.csv").open() as file:
        compared = list(csv.DictReader(file))
    assert {("grid", "test_loss"), ("merge", "bleu")} <= {(one["second"], one["metric"]) for one in compared}
    for metric in ("test_loss", "bleu"):
        tested = [one for one in compared if one["metric"] == metric]
        adjusted = holm([float(one["p_value"]) for one in tested])
        assert [float(one["holm"]) for one in tested] == adjusted
    lines = [
        line.split("|") for line in text.splitlines() if "Holm |" in line or line[:15] == "| merged, fine-"
    ]
    column = [cell.strip() for cell in lines[0]].index("Holm")
    by_loss = next(one for one in compared if (one["second"], one["metric"]) == ("merge", "test_loss"))
    assert lines[1][column].strip() == show_p_value(float(by_loss["holm"]))
    assert (finished / "report/rank_check.svg").stat().st_size > 1000


@pytest.mark.parametrize("test", ["randomisation", "bootstrap"])
def test_two_methods_compared(finished, setting, capsys, test):
    arguments = ["compare", str(setting / "run.yaml"), "zero_shot", "grasp", f"runs={setting}/runs"]
    assert main([*arguments, "--test", test]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    by_metric = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    losses = [read(finished / f"eval/grasp/seed{s}/scores.json")["test_loss"] for s in (42, 7)]
    assert float(by_metric["test_loss"][1]) == pytest.approx(sum(losses) / 2, abs=1e-3)
    assert "bleu" in by_metric
    assert main(["compare", str(setting / "run.yaml"), "grasp", "nothing", f"runs={setting}/runs"]) == 2
    assert "no evaluation of 'nothing'" in capsys.readouterr().err


def test_answers_name_their_prompt(finished):
    rows = [
        json.loads(x) for x in (finished / "eval/grasp/seed42/predictions.jsonl").read_text().splitlines()
    ]
    assert len({row["prompt_hash"] for row in rows}) == len(rows)
    others = [
        json.loads(x) for x in (finished / "eval/merge/seed7/predictions.jsonl").read_text().splitlines()
    ]
    assert [row["prompt_hash"] for row in others] == [row["prompt_hash"] for row in rows]


def test_combinations_are_not_the_plain_merge(finished):
    losses = {
        m: read(finished / f"eval/{m}/seed42/scores.json")["test_loss"]
        for m in ("ties", SVD, "merge_untrained")
    }
    assert len(set(losses.values())) == 3


def test_answers_are_scored_with_signatures(finished):
    lines = (finished / "eval/grasp/seed42/predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    metrics = read(finished / "eval/grasp/seed42/scores.json")["metrics"]
    assert len(rows) == SPLITS["ar"]["test"]
    exact = [100.0 * (row["prediction"] in row["references"]) for row in rows]
    assert metrics["em"]["examples"] == exact
    assert metrics["bleu"]["signature"]
    assert "rougeL" in (finished / "report/summary.md").read_text()


def test_the_same_command_skips_what_is_done(finished, setting, caplog, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("done.json")}
    with caplog.at_level("INFO", logger="grasp_lora"):
        assert main(["run", str(setting / "run.yaml"), f"runs={setting}/runs"]) == 0
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("done.json")} == before
    assert "final/seed42: done, skipped" in caplog.text
    out = capsys.readouterr().out
    assert "p* = " in out
    assert "PeftModel.from_pretrained" in out


def test_a_second_run_stage_by_stage_writes_the_same_rounds(finished, setting, capsys):
    arguments = [str(setting / "run.yaml"), f"runs={setting}/again"]

    def too_early(verb, missing):
        assert main([*verb, *arguments]) == 2
        assert f"{missing} is missing: run that stage first" in capsys.readouterr().err

    too_early(["merge"], "adapters/en")
    assert main(["adapter", "--side", "source", *arguments]) == 0
    too_early(["merge"], "adapters/ar")
    assert main(["adapter", "--side", "target", *arguments]) == 0
    too_early(["learn"], "merged")
    too_early(["finetune", "--p", "0.25"], "merged")
    assert main(["merge", *arguments]) == 0
    too_early(["finetune"], "learn/seed42")
    assert main(["learn", *arguments]) == 0
    assert main(["finetune", *arguments]) == 0
    assert main(["finetune", "--p", "0.25", *arguments]) == 0
    again = setting / "again" / "tiny"
    for file in ("learn/seed42/rounds.jsonl", "final/seed42/adapter_model.safetensors"):
        assert (again / file).read_bytes() == (finished / file).read_bytes()
    assert read(again / "fixed/p0.25-seed42/pruned.json")["p"] == 0.25


def test_a_changed_setting_is_an_error_with_exit_code_2(finished, setting, capsys):
    config = (finished / "config.yaml").read_bytes()
    code = main(["run", str(setting / "run.yaml"), f"runs={setting}/runs", "final.training.epochs=3"])
    assert code == 2
    error = capsys.readouterr().err
    assert "training.epochs: was 2, now 3" in error
    assert "Traceback" not in error
    assert (finished / "config.yaml").read_bytes() == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["control.micro_dev=16"], "micro_dev split of 'ar' has 4 examples"),
        (["backbone=nobody/nothing"], "cannot load the backbone 'nobody/nothing'"),
        (["lora.target_modules=[query]"], "cannot place LoRA"),
        (["target.language=fr", "combine.weights=null"], "no language 'fr'"),
        (["max_length=8"], "without the body that may be cut"),
        (["training.learning_rate=1e37"], "lower the learning rate"),
    ],
)
def test_errors_are_one_message(setting, capsys, tmp_path, overrides, message):
    assert main(["run", str(setting / "run.yaml"), f"runs={tmp_path}", *overrides]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*/final/*/adapter_model.safetensors"))


def test_a_missing_micro_dev_is_an_error_where_a_ratio_is_learned(setting, capsys, tmp_path):
    text = TASK.replace(", micro_dev: ar-micro_dev.jsonl", "").replace(": en-", f": {setting}/en-")
    (tmp_path / "task.yaml").write_text(text.replace(": ar-", f": {setting}/ar-"))
    arguments = ["run", str(setting / "run.yaml"), f"runs={tmp_path}", f"task={tmp_path}/task.yaml"]
    assert main(arguments) == 2
    assert "no 'micro_dev' split" in capsys.readouterr().err
    assert main([*arguments, "methods=[merge_untrained]", "variants={}"]) == 0


@pytest.mark.parametrize(
    ("package", "override", "complaint"),
    [
        ("optuna", "methods=[merge,optuna]", r"pip install 'grasp-lora\[search\]'"),
        ("sacrebleu", "methods=[merge]", r"pip install 'grasp-lora\[metrics\]'"),
        (None, "control.micro_dev=5", "has 4 examples, the controller's micro_dev asks for 5"),
        (None, "variants.greedy.micro_dev=5", "has 4 examples, the controller's micro_dev asks for 5"),
        (None, "control.every=17", "would make no round: every 17 steps, training takes 16"),
        (None, "lorahub.adapters={fr: no/where}", r"lorahub.adapters.fr: no/where .* is not on this machine"),
        (None, "source.adapter=nowhere", r"source.adapter: nowhere is no folder"),
        (None, "target.adapter=nowhere", r"target.adapter: nowhere is no folder"),
        (
            None,
            "evaluation={metrics: [bertscore_f1], bertscore: {encoder: nowhere/none, layer: 9}}",
            "nowhere/none",
        ),
    ],
)
@pytest.mark.hostile("m larger than the micro-dev set", "said before any training")
def test_what_would_stop_a_run_later_is_said_before_any_training(
    setting, capsys, tmp_path, monkeypatch, package, override, complaint
):
    if package:
        monkeypatch.setitem(sys.modules, package, None)
    assert main(["run", str(setting / "run.yaml"), f"runs={tmp_path}", override]) == 2
    assert re.search(complaint, capsys.readouterr().err)
    assert not (tmp_path / "tiny" / "adapters").exists()


def test_many_processes_do_not_race_for_one_run_directory(setting, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # and nothing that tells them apart
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert main(["run", str(setting / "run.yaml"), f"runs={tmp_path}"]) == 2
    assert "started 2 processes, and RANK, MASTER_ADDR, MASTER_PORT are not" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_overlap_is_an_error(setting, capsys, tmp_path):
    text = TASK.replace("ar-micro_dev", "ar-dev").replace(": en-", f": {setting}/en-")
    (tmp_path / "task.yaml").write_text(text.replace(": ar-", f": {setting}/ar-"))
    assert main(["run", str(setting / "run.yaml"), f"runs={tmp_path}", f"task={tmp_path}/task.yaml"]) == 2
    assert "share the example" in capsys.readouterr().err


def test_a_task_s_metrics_are_checked_before_anything_runs(setting, capsys, tmp_path):
    for metric, message in (
        ("bertscore_f1", "set evaluation.bertscore"),
        ("taste", "'taste', which is unknown"),
    ):
        text = TASK.replace("[rouge1,", f"[{metric}, rouge1,").replace(": en-", f": {setting}/en-")
        (tmp_path / "task.yaml").write_text(text.replace(": ar-", f": {setting}/ar-"))
        assert main(["run", str(setting / "run.yaml"), f"runs={tmp_path}", f"task={tmp_path}/task.yaml"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "tiny").exists()
