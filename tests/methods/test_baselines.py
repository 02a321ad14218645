"""Baselines that have what the merge had, on a tiny model."""

import json
import math
import random

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.adapter_checks import changes_of, usual_pair
from tests.helpers.models import tiny_llama
from tests.helpers.run import write_setting
from tests.helpers.tokenizer import tiny_tokenizer
from transformers import TrainerCallback

import grasp_lora
from grasp_lora import GraspError
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.epochs import AverageOfEpochs
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.merging.random_directions import randomise_adapter
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.rows import Row

CONFIG = """
name: baselines
backbone: BACKBONE
task: TASK
source: {language: en}
target: {language: ar}
training: {epochs: 2, learning_rate: 1e-2}
methods: [lora_target, target_on, sequential, joint, merge, merge_random, prune_after]
grid: [0.0, 0.5]
seeds: [42, 7]
max_length: 40
max_new_tokens: 6
"""
TOKENIZER, LIMITS = tiny_tokenizer(), Limits(40, 8)


def encoded(texts):
    return [encode(Example(t, f"say {t}:", t), TOKENIZER, LIMITS) for t in texts]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return write_setting(tmp_path_factory.mktemp("setting"), CONFIG)


@pytest.fixture(scope="module")
def result(setting):
    return grasp_lora.run(setting / "run.yaml", runs=setting / "runs")


def read(path):
    return json.loads(path.read_text())


def test_every_method_has_a_row_for_each_seed(result):
    counts = {row.method: [r.seed for r in result.rows if r.method == row.method] for row in result.rows}
    seeded = ("target_on", "sequential", "joint", "merge", "merge_random", "prune_after")
    assert counts == {"lora_target": [42]} | {name: [42, 7] for name in seeded}
    assert all(math.isfinite(row.test_loss) for row in result.rows)


def test_joint_looks_at_no_dev_row_and_averages_four_epochs(result):
    row = Row.read(result.folder / "eval/joint/seed42")
    assert row.labels == {"train": 8}
    assert row.steps == 4 * 8
    done = read(result.folder / "joint/seed42/done.json")
    assert (done["inputs"]["training.epochs"], done["inputs"]["training.average"]) == (4, True)
    assert done["backward_examples"] == 2 * 4 * 8  # a source row beside each
    assert not (result.folder / "joint/seed42/dev_losses.json").exists()


def test_the_target_trained_on_has_the_steps_of_the_merge(result):
    steps = {name: Row.read(result.folder / f"eval/{name}/seed42").steps for name in ("target_on", "merge")}
    assert steps == {"target_on": 32, "merge": 32}


def test_pruning_at_the_end_prunes_the_fine_tuned_merge(result):
    dense = load_file(result.folder / "merge/seed42/adapter_model.safetensors")
    none = load_file(result.folder / "prune_after/p0.00-seed42/adapter_model.safetensors")
    half = load_file(result.folder / "prune_after/p0.50-seed42/adapter_model.safetensors")
    mask = load_file(result.folder / "prune_after/p0.50-seed42/mask.safetensors")
    assert all(torch.equal(none[name], dense[name]) for name in dense)
    for name, keep in mask.items():
        stored = name.replace(".default", "")
        assert torch.equal(half[stored], dense[stored] * keep)
    assert read(result.folder / "prune_after/p0.50-seed42/pruned.json")["share"] == pytest.approx(0.5)
    best = read(result.folder / "prune_after/seed42/ratio.json")
    kept = read(result.folder / "merge/seed42/dev_losses.json")
    assert best["dev_loss"]["0.0"] == pytest.approx(min(kept["by_epoch"]), rel=1e-5)
    row = Row.read(result.folder / "eval/prune_after/seed7")
    assert row.p == best["p"]


def test_a_random_source_is_as_large_and_points_elsewhere(tmp_path):
    pair = usual_pair(tmp_path)
    randomise_adapter(pair["source"], tmp_path / "drawn", seed=1)
    randomise_adapter(pair["source"], tmp_path / "again", seed=1)
    randomise_adapter(pair["source"], tmp_path / "other", seed=2)
    given, drawn, other = (
        changes_of(folder) for folder in (pair["source"], tmp_path / "drawn", tmp_path / "other")
    )
    assert given.keys() == drawn.keys()
    for site, change in given.items():
        torch.testing.assert_close(
            torch.linalg.svdvals(drawn[site]), torch.linalg.svdvals(change), atol=1e-5, rtol=1e-4
        )
        assert abs(torch.cosine_similarity(change.flatten(), drawn[site].flatten(), dim=0)) < 0.5
        assert not torch.allclose(drawn[site], other[site])
    stored, first, second = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (pair["source"], tmp_path / "drawn", tmp_path / "again")
    )
    for name, weight in stored.items():
        assert torch.equal(first[name], second[name])
        if ".lora_A." in name:
            b = name.replace(".lora_A.", ".lora_B.")
            ratios = [tensors[b].norm() / tensors[name].norm() for tensors in (stored, first)]
            assert ratios[0] == pytest.approx(float(ratios[1]), rel=1e-4)
            assert weight.shape == first[name].shape


def test_the_merge_with_random_directions_is_of_the_drawn_source(result):
    merged = changes_of(result.folder / "randomised/merged")
    drawn, target = (changes_of(result.folder / name) for name in ("randomised/en", "adapters/ar"))
    for site, change in merged.items():
        torch.testing.assert_close(change, drawn[site] + target[site], atol=1e-5, rtol=1e-4)
    row = Row.read(result.folder / "eval/merge_random/seed42")
    assert row.labels == {"train": 8, "dev": 4}


def averaged(folder, of):
    """The weights after three epochs that end with an average, the callback, the weights after each epoch."""
    model, seen = new_adapter(tiny_llama(), Lora(r=2)), []

    class Watch(TrainerCallback):
        def on_epoch_end(self, args, state, control, model, **_):
            seen.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})

    rows, training = encoded(["abc", "bcd", "cde"]), Training(epochs=3, learning_rate=1e-2)
    trainer, average = build_trainer(model, TOKENIZER, rows, training, 0, folder, "t"), AverageOfEpochs(of)
    for callback in (Watch(), average):
        trainer.add_callback(callback)
    trainer.train()
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}, average, seen


def test_the_average_is_of_all_epochs_but_the_start(tmp_path):
    """Against the weights that another callback sees."""
    weights, average, seen = averaged(tmp_path, "factors")
    assert average.epochs == len(seen) == 3
    for name, weight in weights.items():
        torch.testing.assert_close(weight, sum(one[name] for one in seen) / 3)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_on_two_batches_has_the_mean_of_their_losses(tmp_path, accumulated):
    """However many tokens each has, and of all that a step accumulates: against gradients by hand."""
    torch.manual_seed(0)
    model = new_adapter(tiny_llama(), Lora(r=2, dropout=0.0))
    first, second = encoded(["abcdefgh", "bc"][:accumulated]), encoded(["xy"])
    collate = TargetCollator(TOKENIZER, model)
    model.train()
    for row in first:
        for one in (row, *second):
            (model(**collate([one])).loss / 2 / accumulated).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    seen = {}

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **_):
            seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    training = Training(epochs=1, max_grad_norm=0, gradient_accumulation=accumulated)
    trainer = build_trainer(model, TOKENIZER, first, training, 0, tmp_path, "t", beside=second)
    trainer.add_callback(Watch())
    trainer.train()
    assert seen.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient, rtol=1e-4, atol=1e-7)


def test_the_others_come_round_and_round(tmp_path):
    model = new_adapter(tiny_llama(), Lora(r=2))
    ours, others = encoded(["a", "b", "c", "d", "e"]), encoded(["x", "y"])
    trainer = build_trainer(model, TOKENIZER, ours, Training(), 3, tmp_path, "t", beside=others)
    second = [trainer.train_dataset[i][1] for i in range(5)]
    generator = random.Random(3)
    expected = [e for _ in range(3) for e in generator.sample(others, 2)][:5]
    assert second == expected
    assert [trainer.train_dataset[i][0] for i in range(5)] == ours


def test_an_average_needs_a_mask_that_stays(setting):
    with pytest.raises(GraspError, match=r"training\.average is of epochs under one mask"):
        grasp_lora.run(
            setting / "run.yaml", name="x", methods=["merge_prune"], final={"training": {"average": True}}
        )


def test_an_average_under_a_fixed_mask_is_under_it(setting):
    given = {"name": "averaged", "methods": ["grid"], "final": {"training": {"average": True}}, "grid": [0.5]}
    result = grasp_lora.run(setting / "run.yaml", runs=setting / "runs", seeds=[42], **given)
    weights = load_file(result.folder / "grid/seed42/adapter_model.safetensors")
    for name, keep in load_file(result.folder / "grid/seed42/mask.safetensors").items():
        assert (weights[name.replace(".default", "")][~keep] == 0).all()
    losses = read(result.folder / "grid/p0.50-seed42/dev_losses.json")
    assert (len(losses["by_epoch"]), losses["averaged"]) == (1, 2)
    assert result.rows[0].dev_loss == pytest.approx(losses["by_epoch"][0], rel=1e-5)


def test_the_average_of_delta_is_the_nearest_of_its_rank(tmp_path):
    """Against a singular value decomposition of the whole mean."""
    weights, _, seen = averaged(tmp_path, "delta")
    for name in (name for name in weights if ".lora_A." in name):
        other = name.replace(".lora_A.", ".lora_B.")
        mean = sum(one[other] @ one[name] for one in seen) / 3
        u, s, v = torch.linalg.svd(mean)
        nearest = u[:, :2] * s[:2] @ v[:2]
        torch.testing.assert_close(weights[other] @ weights[name], nearest, rtol=1e-4, atol=1e-7)
        ratios = [w[other].norm() / w[name].norm() for w in (weights, seen[-1])]
        assert float(ratios[0]) == pytest.approx(float(ratios[1]), rel=1e-4)


def test_an_average_of_delta_takes_no_mask(setting):
    given = {"methods": ["grid"], "final": {"training": {"average": "delta"}}, "grid": [0.5]}
    with pytest.raises(GraspError, match=r"average: delta is of adapters without a mask"):
        grasp_lora.run(setting / "run.yaml", name="y", **given)
