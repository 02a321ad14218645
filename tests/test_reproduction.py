"""What the papers need beyond one run: several sources, thresholds, sweeps, runs side by side."""

import json
import re
from statistics import mean

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.run import write_setting

import grasp_lora
from grasp_lora import GraspError
from grasp_lora.cli.main import main
from grasp_lora.experiment import compare, preview, read_config, start
from grasp_lora.merging import read_parts
from grasp_lora.methods.plan import plan
from grasp_lora.methods.ready import check_ready
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.records import Done
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.rows import Row

THREE = """
name: three
backbone: BACKBONE
task: TASK
source:
  - {name: xs, language: en, task: FOLDER/other.yaml}
  - {name: wl, language: en}
target: {language: ar, tests: {dialect: dialect.jsonl}}
training: {epochs: 2, learning_rate: 1e-2}
control: {micro_dev: 4, every: 2, p_min: 0.0}
methods: [lora_source, lora_target, lorahub, ties, sweep, merge, merge_prune, grasp]
sweep: {ratios: [0.3, 0.6749]}
merge_prune: {unit: module, thresholds: [1e-9, 0.35, 1e9]}
lorahub: {budget: 3}
seeds: [42, 7]
repeat: adapters
evaluation: {generate: null, metrics: [rougeL, chrf], points: true}
max_length: 40
max_new_tokens: 6
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("setting"))
    other = (folder / "task.yaml").read_text().replace("name: copy", "name: other").replace("say", "sing")
    (folder / "other.yaml").write_text(other)
    rows = [json.dumps({"text": f"abab {i}", "title": "ba"}) for i in range(200, 203)]
    (folder / "dialect.jsonl").write_text("\n".join(rows))
    text = (folder / "run.yaml").read_text()
    backbone = re.search("backbone: (.*)", text)[1]
    text = THREE.replace("BACKBONE", backbone).replace("TASK", str(folder / "task.yaml"))
    (folder / "three.yaml").write_text(text.replace("FOLDER", str(folder)))
    return folder


@pytest.fixture(scope="module")
def three(setting):
    assert main(["run", str(setting / "three.yaml"), f"runs={setting}/runs"]) == 0
    return setting / "runs" / "three"


def read(path):
    return json.loads(path.read_text())


def test_three_adapters_are_merged_and_pruned_apart(three):
    parts = read(three / "merged/parts.json")
    names = [part["name"] for part in next(iter(parts.values()))]
    assert names == ["xs", "wl", "ar"]
    shares = read(three / "final/seed42/pruned.json")["share_by_unit"]
    assert len(shares) == 2 * 2 * 2 * 3  # layers, q and v, A and B, adapters
    weights = read(three / "combined/lorahub/weights.json")["weights"]
    assert set(weights) == {"xs", "wl", "ar"}


def test_a_source_is_trained_on_its_own_tasks_rows(three):
    xs, wl = (read(three / f"adapters/{name}/done.json")["inputs"] for name in ("xs", "wl"))
    assert xs["train"] != wl["train"]
    assert xs["seed"] == wl["seed"] == 42
    row = Row.read(three / "eval/merge/seed42")
    assert row.source == "xs+wl"
    assert row.labels == {"train": 8, "dev": 4}  # none of the sources'


def test_adapters_are_trained_with_each_seed(three):
    for method in ("lora_source_xs", "lora_source_wl", "lora_target", "lorahub", "ties", "merge", "grasp"):
        rows = [Row.read(three / f"eval/{method}/seed{seed}") for seed in (42, 7)]
        assert [row.repeated for row in rows] == ["adapters", "adapters"]
        assert rows[0].test_losses != rows[1].test_losses, method
    assert read(three / "adapters/xs-seed7/done.json")["inputs"]["seed"] == 7
    assert (
        read(three / "merge/seed7/done.json")["inputs"]["start"]
        != (read(three / "merge/seed42/done.json")["inputs"]["start"])
    )
    assert not (three / "learn/seed7").exists()  # a ratio is found once
    assert Row.read(three / "eval/grasp/seed7").p == Row.read(three / "eval/grasp/seed42").p
    assert "2 (adapters too)" in (three / "report/summary.md").read_text()


def test_a_sweep_trains_and_scores_every_ratio_with_every_seed(three):
    for name, p in (("sweep_p0.30", 0.3), ("sweep_p0.6749", 0.6749)):
        for seed in (42, 7):
            row = Row.read(three / f"eval/{name}/seed{seed}")
            assert (row.p, row.adapter) == (p, f"fixed/{name.removeprefix('sweep_')}-seed{seed}")
            assert set(row.scores) == {"rougeL", "chrf"}
            assert row.pruned_share == pytest.approx(p, abs=0.03)


def test_the_threshold_is_the_best_on_dev_and_what_it_pruned_is_shown(three):
    found = read(three / "merge_prune/seed42/ratio.json")
    losses = {float(at): loss for at, loss in found["dev_loss"].items()}
    assert set(losses) == {1e-9, 0.35, 1e9}
    assert losses[found["threshold"]] == min(losses.values())
    shares = {t: read(three / f"merge_prune/t{t:g}-seed42/pruned.json")["share"] for t in losses}
    assert shares[1e-9] == 0.0
    assert shares[1e9] == 1.0
    assert 0.0 < shares[0.35] < 1.0
    for t, share in shares.items():  # zeros in the file are what was reset: the kept epoch ends with a step
        weights = load_file(three / f"merge_prune/t{t:g}-seed42/adapter_model.safetensors")
        zeros = sum(int((w == 0).sum()) for w in weights.values()) / sum(w.numel() for w in weights.values())
        assert zeros == pytest.approx(share, abs=1e-3)
    rows = [Row.read(three / f"eval/merge_prune/seed{seed}") for seed in (42, 7)]
    assert {row.threshold for row in rows} == {found["threshold"]}
    assert rows[0].p is None
    summary = (three / "report/summary.md").read_text()
    assert f"{rows[0].pruned_share:.2%}" in summary
    assert "threshold" in summary


def test_importance_by_unit_is_kept(three):
    by_unit = read(three / "merge_prune/t0.35-seed42/importance.json")["by_unit"]
    assert len(by_unit) == 12
    assert "model.layers.1.self_attn.v_proj[wl]" in by_unit
    share = read(three / "merge_prune/t0.35-seed42/pruned.json")["share"]
    weights = load_file(three / "merge_prune/t0.35-seed42/adapter_model.safetensors")
    parts, entries, gone = read_parts(three / "merged"), 0, 0
    for name, score in by_unit.items():
        site, adapter = name.removesuffix("]").split("[")
        part = next(part for part in parts[site] if part.name == adapter)
        a = weights[f"base_model.model.{site}.lora_A.weight"][part.start : part.stop]
        b = weights[f"base_model.model.{site}.lora_B.weight"][:, part.start : part.stop]
        assert (not a.any()) == (not b.any()) == (score < 0.35)
        entries, gone = entries + a.numel() + b.numel(), gone + (a.numel() + b.numel()) * (score < 0.35)
    assert 0 < share == pytest.approx(gone / entries)
    assert (three / "merge_prune/seed42/importance.json").exists()


def test_dev_scores_over_the_points_of_the_search(three):
    lines = (three / "report/points.csv").read_text().splitlines()
    assert lines[0] == "method,at,metric,dev"
    found = {tuple(line.split(",")[:3]): float(line.split(",")[3]) for line in lines[1:]}
    assert {metric for _, _, metric in found} == {"dev_loss", "rougeL", "chrf"}
    scored = Row.read(three / "dev/merge_prune/t0.35-seed42")
    assert found["merge_prune", "0.35", "chrf"] == scored.scores["chrf"]["value"]
    assert mean(scored.test_losses) == pytest.approx(found["merge_prune", "0.35", "dev_loss"], rel=1e-4)


def test_a_dialect_is_one_more_test_set(three):
    for method in ("merge", "grasp"):
        row = Row.read(three / f"tests/dialect/{method}/seed7")
        assert row.test_set == "dialect"
        assert row.adapter == {"merge": "merge/seed7", "grasp": "final/seed7"}[method]
        assert [answer.id for answer in row.answers] == [f"ar/tests/dialect:{i}" for i in (1, 2, 3)]
        assert set(row.scores) == {"rougeL", "chrf"}
    summary = (three / "report/summary.md").read_text()
    assert "On 3 rows of dialect" in summary


def test_the_trajectory_of_every_learning_run_is_written(three):
    lines = (three / "report/trajectories.csv").read_text().splitlines()
    rounds = (three / "learn/seed42/rounds.jsonl").read_text().splitlines()
    assert len(lines) == 1 + len(rounds)
    assert lines[1].split(",")[:5] == ["grasp", "0", "1", "2", str(json.loads(rounds[0])["p_curr"])]


def test_a_report_of_the_folder_alone_is_the_runs_own(three, tmp_path):
    assert main(["report", str(three), "--to", str(tmp_path)]) == 0
    own = {p.relative_to(three / "report") for p in (three / "report").rglob("*") if p.name != "done.json"}
    assert own == {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    for name in own:
        if name.suffix in (".md", ".csv", ".tex", ".html"):
            assert (tmp_path / name).read_text() == (three / "report" / name).read_text(), name


def test_the_target_need_not_have_an_adapter(setting, three):
    given = {"name": "related", "target": {"adapter": "none"}, "runs": setting / "runs", "repeat": "final"}
    result = grasp_lora.run(setting / "three.yaml", methods=["lora_source", "merge"], **given)
    assert [row.method for row in result.rows] == ["lora_source_xs", "lora_source_wl", "merge", "merge"]
    assert not (result.folder / "adapters/ar").exists()
    names = [part["name"] for part in next(iter(read(result.folder / "merged/parts.json").values()))]
    assert names == ["xs", "wl"]
    with pytest.raises(GraspError, match=r"method lora_target: target\.adapter is none"):
        grasp_lora.run(setting / "three.yaml", methods=["lora_target"], **given)


def test_what_starts_from_one_source_says_so(setting):
    config = read_config(setting / "three.yaml", {"methods": ["sequential"]})
    with pytest.raises(GraspError, match="method sequential: it takes one source, and there are xs, wl"):
        plan(start(config))


def test_the_final_run_pruned_at_every_step(setting, three):
    """Is `merge_prune` at the learned ratio."""
    changes = {"name": "stepwise", "final": {"pruning": "every_step"}, "merge_prune": {"unit": "parameter"}}
    changes |= {"merge_prune.thresholds": [], "methods": ["grasp", "merge_prune"], "grid": [0.5]}
    changes |= {"control.p_min": 0.5, "control.p_max": 0.5, "control.p_init": 0.5, "repeat": "final"}
    result = grasp_lora.run(setting / "three.yaml", runs=setting / "runs", seeds=[42], **changes)
    assert result.ratio == 0.5
    assert not (result.folder / "final/seed42/mask.safetensors").exists()
    ours = load_file(result.folder / "final/seed42/adapter_model.safetensors")
    theirs = load_file(result.folder / "merge_prune/seed42/adapter_model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_any_adapter_is_evaluated_as_the_methods_are(setting, three, capsys, monkeypatch):
    command = [
        "evaluate",
        str(three / "fixed/p0.30-seed42"),
        str(setting / "three.yaml"),
        f"runs={setting}/runs",
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    made, known = (
        Row.read(three / "eval/fixed-p0.30-seed42/seed42"),
        Row.read(three / "eval/sweep_p0.30/seed42"),
    )
    assert made.test_losses == known.test_losses
    assert made.scores == known.scores
    assert f"{made.scores['chrf']['value']:.2f}" in shown
    assert main([*command, "--split", "micro_dev", "--name", "mine"]) == 0
    assert Row.read(three / "tests/micro_dev/mine/seed42").test_set == "micro_dev"
    assert main([*command, "--split", "dialect"]) == 0
    assert len(Row.read(three / "tests/dialect/fixed-p0.30-seed42/seed42").test_losses) == 3
    capsys.readouterr()
    assert main(["evaluate", str(three / "nothing"), *command[2:]]) == 2
    assert "nothing is no folder: give a saved PEFT adapter's" in capsys.readouterr().err
    for name in ("grasp", "sweep_p0.30", "lora_source_xs", "rank_check"):
        assert main([*command, "--name", name]) == 2
        assert f"would be called '{name}', which is a method" in capsys.readouterr().err
    assert main([*command, "--name", "../x"]) == 2
    assert "--name '../x' names a folder" in capsys.readouterr().err
    assert main([*command, "--split", "nowhere"]) == 2
    assert "has no 'nowhere' split" in capsys.readouterr().err
    config = read(three / "fixed/p0.30-seed42/adapter_config.json")
    other = setting / "merge"
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "some/other"}))
    assert main(["evaluate", str(other), *command[2:]]) == 2
    assert "was trained on 'some/other'" in capsys.readouterr().err
    (other / "adapter_config.json").write_text(json.dumps(config))
    assert main(["evaluate", str(other), *command[2:]]) == 2
    assert "would be called 'merge', which is a method: give it another --name" in capsys.readouterr().err


def test_runs_side_by_side(setting, three, capsys):
    twin = {"name": "twin", "runs": setting / "runs", "methods": ["merge", "zero_shot"], "seeds": [42]}
    grasp_lora.run(setting / "three.yaml", **twin, final={"training": {"epochs": 1}})
    one, two = f"{setting}/runs/three", f"{setting}/runs/twin"
    assert main(["compare", f"{one}:merge", f"{two}:merge"]) == 0
    assert re.search(r"metric +\| three:merge \| twin:merge \|", capsys.readouterr().out)
    assert main(["compare", one, two, "--against", f"{two}:zero_shot"]) == 0
    table = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| t")}
    assert {"three:merge", "twin:merge", "three:sweep_p0.30", "twin:zero_shot"} <= set(rows)
    assert "differs from twin:zero_shot with p < 0.05" in table
    starred = {name for name, line in rows.items() if re.search(r" \*\*? \|", line)}
    assert "twin:zero_shot" not in starred
    losses = {
        name: mean(mean(Row.read(folder).test_losses) for folder in sorted(found.glob("seed*")))
        for name, found in (
            (f"{run}:{method.name}", method)
            for run in ("three", "twin")
            for method in (setting / "runs" / run / "eval").iterdir()
        )
    }
    assert main(["compare", one]) == 0  # against what the run's report compares with
    assert "differs from grasp with" in capsys.readouterr().out
    best = min(rows, key=losses.__getitem__)
    assert f"**{losses[best]:.4f}" in rows[best]
    assert starred  # training helps, on any seed


def test_what_cannot_be_compared_is_said(setting, three, capsys):
    short = {"name": "short", "runs": setting / "runs", "methods": ["zero_shot"], "repeat": "final"}
    grasp_lora.run(setting / "three.yaml", evaluation={"test_examples": 5}, **short)
    one, other = f"{setting}/runs/three:merge", f"{setting}/runs/short:zero_shot"
    with pytest.raises(GraspError, match="cannot be compared: one was tested on 6 rows, the other on 5"):
        compare([one, other])
    task = {"task": str(setting / "other.yaml"), "name": "other"}
    grasp_lora.run(setting / "three.yaml", **short | task)
    with pytest.raises(GraspError, match="they were tested on other rows"):
        compare([one, f"{setting}/runs/other:zero_shot"])
    for what, reason in (
        ([one], "two different methods"),
        ([one, one], "two different methods"),
        (["merge", "grasp"], "no YAML file stands before"),
        ([one, f"{setting}/runs/nothing:merge"], "runs/nothing is no run's folder"),
        ([str(setting / "three.yaml"), "run.yaml", "grasp"], "give one YAML file, before its methods"),
        ([str(setting), one], r"has no evaluation; evaluated are: none"),
        ([f"{setting}/runs/three:nothing", one], "no evaluation of 'nothing'; evaluated are: .*grasp"),
        ([], "two different methods"),
    ):
        with pytest.raises(GraspError, match=reason):
            compare(what)


def test_the_plan_of_several_runs(setting, three, capsys):
    """Passes are what the finished run counted: no training here is long enough to stop early."""
    given = {"runs": setting / "new"}
    twin = {"name": "twin", "methods": ["merge", "grasp"], "control": {"every": 4}}
    configs = [read_config(setting / "three.yaml", given), read_config(setting / "three.yaml", given | twin)]
    planned = {(one.run.name, one.name): one for one in preview(configs)}
    measured = {}
    for path in three.rglob("done.json"):
        done, name = Done.read(path.parent), path.parent.relative_to(three).as_posix()
        measured["three", name] = done.forward_examples + done.backward_examples
    assert all(planned[key].passes == measured[key] for key in planned if key[0] == "three")
    states = {name: one.state for (run, name), one in planned.items() if run == "twin"}
    assert states["adapters/xs-seed7"] == states["merged"] == states["eval/merge/seed7"] == "shared"
    assert states["learn/seed42"] == states["final/seed42"] == states["report"] == "new"
    assert not (setting / "new").exists()
    command = ["plan", str(setting / "three.yaml"), f"runs={setting}/runs"]
    assert main([*command, "--stages"]) == 0
    shown = capsys.readouterr().out
    count = len(planned) - len(states)
    assert re.search(rf"runs/three \| +{count} \| +{count} \| +0 \| +0 \| +0 \| +0 \| +0 \|", shown)
    assert re.search(rf"done +{measured['three', 'learn/seed42']} .*runs/three/learn/seed42\n", shown)


def test_a_plan_says_what_was_made_with_other_settings(setting, three, capsys):
    config = read_config(setting / "three.yaml", {"runs": setting / "runs", "control.every": 4})
    states = {one.name: one.state for one in preview([config])}
    changed = {name for name, state in states.items() if state == "changed"}
    assert {"learn/seed42", "final/seed42", "final/seed7", "eval/grasp/seed7"} <= changed
    assert {states[name] for name in ("merged", "adapters/xs", "merge/seed7", "eval/merge/seed7")} == {"done"}
    assert [name for name, state in states.items() if state == "new"] == ["report"]  # it is made again anyhow
    assert main(["plan", str(setting / "three.yaml"), f"runs={setting}/runs", "control.every=4"]) == 0
    assert "run --force makes them again" in capsys.readouterr().out


def test_what_another_seed_left_does_not_count(setting, three):
    given = {"name": "stale", "methods": ["merge", "zero_shot"], "repeat": "final", "runs": setting / "runs"}
    grasp_lora.run(setting / "three.yaml", **given)
    changed = grasp_lora.run(
        setting / "three.yaml", force=True, seeds=[42], final={"training": {"epochs": 1}}, **given
    )
    shown = compare([f"{changed.folder}:merge", f"{changed.folder}:zero_shot"])
    assert f"| {changed.rows[0].test_loss:.4f} |" in shown
    only = compare([f"{changed.folder}:merge"], against=f"{three}:grasp")
    assert re.search(r"stale:merge +\| +\| +1 \|", only.replace("0.000", "     "))


def test_a_method_wins_over_a_folder_of_its_name(setting, three, monkeypatch):
    monkeypatch.chdir(setting)
    (setting / "zero_shot").mkdir(exist_ok=True)
    config = str(setting / "three.yaml")
    assert "grasp" in compare([config, "merge", "grasp"], overrides=[f"runs={setting}/runs"])


def test_steps_one_at_a_time_train_adapters_with_each_seed(setting, three, capsys):
    more = [f"runs={setting}/steps", "methods=[grasp]"]
    for verb in (
        ["adapter", "--side", "source"],
        ["adapter", "--side", "target"],
        ["merge"],
        ["learn"],
        ["finetune"],
    ):
        assert main([verb[0], str(setting / "three.yaml"), *more, *verb[1:]]) == 0, verb
    printed = capsys.readouterr().out.split()
    for made in ("adapters/wl-seed7", "adapters/ar", "merged-seed7", "final/seed7"):
        assert f"{setting}/steps/three/{made}" in printed
    ours, theirs = (
        load_file(run / "final/seed7/adapter_model.safetensors") for run in (setting / "steps/three", three)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_ratio_is_found_with_the_configs_own_adapters(three):
    for stage in ("learn/seed42", "merge_prune/t0.35-seed42"):
        start = read(three / stage / "done.json")["inputs"]["start"]
        assert start == read(three / "merge/seed42/done.json")["inputs"]["start"]


def test_a_sources_own_seed_moves_with_the_others(setting):
    source = [{"name": "xs", "language": "en", "seed": 1}, {"name": "wl", "language": "en"}]
    x = start(read_config(setting / "three.yaml", {"source": source, "methods": ["merge"]}))
    seeds = {stage.name: stage.given["seed"] for stage in plan(x) if stage.name.startswith("adapters/")}
    assert seeds["adapters/xs"] == 1
    assert seeds["adapters/xs-seed7"] == (1 + 7 - 42) % 2**32
    assert seeds["adapters/wl-seed7"] == 7


def test_adapters_that_are_given_are_not_trained_anew(setting, three):
    given = [{"name": n, "language": "en", "adapter": str(three / f"adapters/{n}")} for n in ("xs", "wl")]
    changes = {
        "source": given,
        "target.adapter": str(three / "adapters/ar"),
        "methods": ["merge", "lora_target"],
    }
    stages = plan(start(read_config(setting / "three.yaml", changes)))
    names = [stage.name for stage in stages]
    assert [name for name in names if name.startswith("merged")] == ["merged"]
    assert "eval/lora_target/seed7" not in names
    repeated = {stage.name: stage.given["repeated"] for stage in stages if stage.name.startswith("eval/")}
    assert repeated == {
        "eval/merge/seed42": "final",
        "eval/merge/seed7": "final",
        "eval/lora_target/seed42": "",
    }


def test_two_stages_of_one_name_are_refused(setting):
    source = [{"name": "xs", "language": "en"}, {"name": "xs-seed7", "language": "en"}]
    with pytest.raises(GraspError, match="two stages would be called adapters/xs-seed7"):
        plan(start(read_config(setting / "three.yaml", {"source": source, "methods": ["merge"]})))


def test_ids_of_another_task_mean_something_else(setting, tmp_path):
    """Rows numbered from 0 in each task; the same text is a leak all the same."""
    first = {"train": 0, "dev": 9, "test": 20}
    for task, word in (("one", "ab"), ("two", "cd")):
        for split, number in first.items():
            rows = [{"n": n, "text": f"{word} {n}", "title": word} for n in range(number, number + 5)]
            (tmp_path / f"{task}-{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        files = {split: f"{task}-{split}.jsonl" for split in ("train", "dev", "test")}
        (tmp_path / f"{task}.yaml").write_text(
            json.dumps(
                {
                    "name": task,
                    "prompt": "say {text}\n",
                    "target": "title",
                    "id": "n",
                    "languages": {"en": files},
                }
            )
        )
    changes = {
        "task": str(tmp_path / "one.yaml"), "target": {"language": "en", "adapter": "none", "tests": {}},
        "source": [{"name": "xs", "language": "en", "task": str(tmp_path / "two.yaml")}],
        "methods": ["lora_source"], "runs": tmp_path, "repeat": "final",
    }  # fmt: skip
    x = start(read_config(setting / "three.yaml", changes))
    run = RunDirectory(tmp_path / "run", Resources())
    check_ready(x, plan(x), run)
    (tmp_path / "two-train.jsonl").write_text((tmp_path / "one-test.jsonl").read_text())
    x = start(read_config(setting / "three.yaml", changes))
    with pytest.raises(GraspError, match=r"'source en train' and 'test' share the example .*same text as"):
        check_ready(x, plan(x), RunDirectory(tmp_path / "run", Resources()))


def test_a_pool_and_further_tests_are_apart_too(setting, tmp_path):
    text = (setting / "task.yaml").read_text().replace("ar: {train", "ar: {pool: ar-test.jsonl, train")
    (setting / "pooled.yaml").write_text(text)
    changes = {"task": str(setting / "pooled.yaml"), "methods": ["lora_target"], "source": {"language": "en"}}
    x = start(read_config(setting / "three.yaml", changes))
    check_ready(x, plan(x), RunDirectory(tmp_path, Resources()))  # nothing comes from the pool
    x = start(read_config(setting / "three.yaml", changes | {"target.train_examples": 9}))
    with pytest.raises(GraspError, match="'target pool' and 'test' share"):
        check_ready(x, plan(x), RunDirectory(tmp_path, Resources()))
    (setting / "leak.jsonl").write_text((setting / "ar-train.jsonl").read_text())
    leak = {"target.tests": {"leak": str(setting / "leak.jsonl")}, "methods": ["lora_target"]}
    x = start(read_config(setting / "three.yaml", leak))
    with pytest.raises(GraspError, match="'target train' and 'tests/leak' share"):
        check_ready(x, plan(x), RunDirectory(tmp_path, Resources()))


def test_all_is_what_can_be_made(setting, caplog):
    given = {"methods": "all", "target.adapter": "none", "name": "whatever", "optuna": {"trials": 2}}
    names = [stage.name for stage in plan(start(read_config(setting / "three.yaml", given)))]
    assert not any(name.startswith(("eval/lora_target", "eval/sequential")) for name in names)
    assert "eval/grasp/seed42" in names
    assert "left out: the method lora_target: target.adapter is none" in caplog.text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"source": [{"language": "en"}, {"language": "en"}]},
            "two adapters are called 'en': give one side a name",
        ),
        ({"source": []}, "source: .*at least 1 item"),
        (
            {"source": [{"language": "en", "name": "x"}, {"languge": "en"}]},
            r"source\.1\.languge: unknown key",
        ),
        ({"source": {"language": "ar", "name": "x"}}, "source and target are both 'ar' of one task"),
        ({"source": {"language": "en", "adapter": "none"}}, "source 'en' needs an adapter"),
        ({"sweep": {"ratios": [0.3, 0.3]}}, r"sweep\.ratios: .*same to four decimals"),
        ({"sweep": {"ratios": []}}, "set sweep.ratios"),
        ({"merge_prune": {"thresholds": [0.1234567, 0.1234568]}}, "two that are the same to six digits"),
        ({"final": {"pruning": "every_step"}}, "merge_prune.unit is module"),
        ({"variants": {"sweep_p0.30": {}}}, "two methods or variants are called 'sweep_p0.30'"),
        ({"target": {"tests": {"test": "x.jsonl"}}}, "'test' is a split of every task"),
        (
            {"target": {"tests": {"other": "no/where.jsonl"}}},
            r"target\.tests\.other: .*no/where",
        ),
        ({"merge_prune": {"pool": "factors"}}, "pool is of modules' scores from gradients"),
        ({"combine": {"weights": {"xs": 1.0, "ar": 1.0}}}, r"weight for each of \['ar', 'wl', 'xs'\]"),
    ],
)
def test_what_does_not_go_together(setting, change, reason):
    with pytest.raises(GraspError, match=reason):
        plan(start(read_config(setting / "three.yaml", change)))
