"""LoRAHub: weighted factors against torch and PEFT, the search, and the stage on a tiny model."""

import json
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tests.helpers.adapter_checks import (
    QV,
    assert_same_changes,
    changes_of,
    config_of,
    deltas,
    load,
    usual_pair,
)
from tests.helpers.models import random_adapter, tiny_llama, tokens
from tests.helpers.tokenizer import tiny_tokenizer

from grasp_lora.errors import GraspError
from grasp_lora.experiment import make, start
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.merging import merge_adapters, read_parts
from grasp_lora.merging.lorahub import merge_weighted, place_factors, search_weights, weigh_adapters
from grasp_lora.merging.reading import read_adapters
from grasp_lora.methods.plan import METHODS
from grasp_lora.workspace.resources import Resources

WEIGHTS = {"source": 0.7, "target": -1.3}


def factors(folder):
    """Site -> (A, B) as stored."""
    stored = load_file(folder / "adapter_model.safetensors")
    sites = {key.removeprefix("base_model.model.").split(".lora_")[0] for key in stored}
    return {s: [stored[f"base_model.model.{s}.lora_{f}.weight"] for f in "AB"] for s in sites}


def differing_pair(tmp_path):
    """One rank (2), scalings 4 and 1."""
    return {
        "source": random_adapter(
            tiny_llama(), tmp_path / "s", seed=0, target_modules=QV, r=2, lora_alpha=8, lora_dropout=0.0
        ),
        "target": random_adapter(tiny_llama(), tmp_path / "t", seed=1, target_modules=QV, r=2, lora_alpha=2),
    }


def test_the_default_adds_weighted_factors(tmp_path):
    pair = usual_pair(tmp_path)  # scaling 4
    merge_weighted(pair, WEIGHTS, tmp_path / "out")
    source, target = factors(pair["source"]), factors(pair["target"])
    expected = {}
    for site, (a, b) in source.items():
        a2, b2 = target[site]
        expected[site] = 4 * (0.7 * b - 1.3 * b2) @ (0.7 * a - 1.3 * a2)
    assert_same_changes(changes_of(tmp_path / "out"), expected)
    parts = read_parts(tmp_path / "out")
    assert {(part.name, part.start, part.stop) for of_site in parts.values() for part in of_site} == {
        ("merged", 0, 3)
    }


@pytest.mark.parametrize("order", [1, -1])
def test_unequal_scalings_keep_each_adapters_own_term(tmp_path, order):
    pair = dict([*differing_pair(tmp_path).items()][::order])
    merge_weighted(pair, WEIGHTS, tmp_path / "out")
    source, target = factors(pair["source"]), factors(pair["target"])
    expected = {}
    for site, (a, b) in source.items():
        a2, b2 = target[site]
        cross = 0.7 * -1.3 * 2 * (b @ a2 + b2 @ a)  # 2 = sqrt(4 * 1)
        expected[site] = 0.49 * 4 * b @ a + 1.69 * 1 * b2 @ a2 + cross
    assert_same_changes(changes_of(tmp_path / "out"), expected)


def test_weights_of_one_are_the_linear_merge(tmp_path):
    pair = usual_pair(tmp_path)
    merge_weighted(pair, dict.fromkeys(pair, 1.0), tmp_path / "ones")
    merge_adapters(pair, tmp_path / "linear", "linear")
    for file in ("adapter_model.safetensors", "adapter_config.json", "parts.json"):
        assert (tmp_path / "ones" / file).read_bytes() == (tmp_path / "linear" / file).read_bytes()


def test_exact_is_the_adapters_active_together_with_pefts_weights(tmp_path):
    pair = {
        "source": random_adapter(tiny_llama(), tmp_path / "s", seed=0, target_modules=QV, r=2, lora_alpha=8),
        "target": random_adapter(
            tiny_llama(), tmp_path / "t", seed=1, target_modules=["q_proj", "up_proj"], r=3, lora_alpha=3
        ),
    }
    merge_weighted(pair, WEIGHTS, tmp_path / "out", exact=True)
    together, alone = load(tiny_llama(), pair), load(tiny_llama(), {"out": tmp_path / "out"})
    for name, weight in WEIGHTS.items():
        for module in together.modules():
            if isinstance(module, LoraLayer) and name in module.scaling:
                module.set_scale(name, weight)
    assert_same_changes(deltas(alone, "out"), deltas(together, *pair))
    with torch.no_grad():
        torch.testing.assert_close(alone(tokens()).logits, together(tokens()).logits, rtol=1e-5, atol=2e-6)
    parts = read_parts(tmp_path / "out")["model.layers.0.self_attn.q_proj"]
    assert [(part.name, part.start, part.stop) for part in parts] == [("source", 0, 2), ("target", 2, 5)]


@pytest.mark.parametrize("exact", [False, True])
def test_factors_are_put_in_place_in_a_loaded_model(tmp_path, exact):
    pair = usual_pair(tmp_path)
    merge_weighted(pair, dict.fromkeys(pair, 0.0), tmp_path / "start", exact=exact)
    merge_weighted(pair, WEIGHTS, tmp_path / "end", exact=exact)
    model = load_adapter(tiny_llama(), tmp_path / "start", trainable=False)
    with torch.no_grad():
        assert torch.equal(model(tokens()).logits, tiny_llama()(tokens()).logits)
        place_factors(model, weigh_adapters(read_adapters(pair), WEIGHTS, exact=exact)[0])
        read_back = load_adapter(tiny_llama(), tmp_path / "end", trainable=False)
        assert torch.equal(model(tokens()).logits, read_back(tokens()).logits)


def test_unequal_ranks_need_exact(tmp_path):
    pair = usual_pair(tmp_path)
    pair["wide"] = random_adapter(tiny_llama(), tmp_path / "w", seed=2, target_modules=QV, r=5)
    with pytest.raises(GraspError, match=r"layers\.0.*'source' has rank 3 and 'wide' has 5.*exact"):
        merge_weighted(pair, dict.fromkeys(pair, 1.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge_weighted(pair, dict.fromkeys(pair, 1.0), tmp_path / "out", exact=True)
    assert config_of(tmp_path / "out")["r"] == 11


@pytest.mark.parametrize(
    "weights", [{"source": 1.0}, {"source": 1.0, "target": float("nan")}, {**WEIGHTS, "other": 1.0}]
)
def test_every_adapter_needs_one_finite_weight(tmp_path, weights):
    with pytest.raises(GraspError, match="one finite weight for each of the adapters"):
        merge_weighted(usual_pair(tmp_path), weights, tmp_path / "out")


def bowl(*centre):
    """A quadratic over w0, w1, ... with its minimum, 0, at `centre`; the axes are coupled."""

    def loss(weights):
        away = [weights[f"w{i}"] - c for i, c in enumerate(centre)]
        return sum(x * x for x in away) + 0.3 * sum(away) ** 2

    return loss, [f"w{i}" for i in range(len(centre))]


@pytest.mark.parametrize("centre", [(0.4,), (1.0, -0.7), (-1.2, 0.3, 0.9)])
def test_the_search_finds_a_minimum_to_a_hundredth(centre):
    loss, names = bowl(*centre)
    found = search_weights(loss, names, budget=60, penalty=0.0)
    assert list(found.best.weights.values()) == pytest.approx(centre, abs=0.01)
    assert found.history[0].weights == dict.fromkeys(names, 0.0)
    assert found.best.objective == min(e.objective for e in found.history)


def test_the_search_stays_within_its_bounds():
    loss, names = bowl(3.0, -3.0, 0.2)
    found = search_weights(loss, names, bound=0.8, penalty=0.0)
    assert max(abs(w) for e in found.history for w in e.weights.values()) == 0.8
    assert list(found.best.weights.values()) == pytest.approx([0.8, -0.8, 0.2], abs=0.01)


@pytest.mark.parametrize("budget", [1, 2, 7, 40])
def test_the_budget_is_never_exceeded(budget):
    calls = []
    loss, names = bowl(*[0.5] * 20)
    found = search_weights(lambda w: calls.append(w) or loss(w), names, budget=budget)
    assert len(calls) == len(found.history) == budget
    assert calls == [e.weights for e in found.history]


def test_twenty_weights_improve_within_forty_calls():
    loss, names = bowl(*[(-1) ** i * (0.2 + 0.05 * i) for i in range(20)])
    found = search_weights(loss, names, penalty=0.0)
    assert found.best.objective < 0.5 * found.history[0].objective


def test_the_penalty_is_counted():
    found = search_weights(lambda weights: 2.0, ["a", "b"], penalty=0.5, budget=5)
    for evaluated in found.history:
        mean = (abs(evaluated.weights["a"]) + abs(evaluated.weights["b"])) / 2
        assert evaluated.objective == pytest.approx(2.0 + 0.5 * mean)
        assert evaluated.loss == 2.0
    assert found.best.weights == {"a": 0.0, "b": 0.0}
    # (w - 1)^2 + 0.5 |w| is lowest at 0.75
    found = search_weights(lambda weights: (weights["a"] - 1) ** 2, ["a"], penalty=0.5)
    assert found.best.weights["a"] == pytest.approx(0.75, abs=0.01)


def test_a_search_that_cannot_be_made_is_refused():
    loss, _ = bowl(0.0)
    for names, options in (([], {}), (["w0", "w0"], {}), (["w0"], {"budget": 0}), (["w0"], {"bound": 0.0})):
        with pytest.raises(GraspError, match="different names, a budget and a bound"):
            search_weights(loss, names, **options)
    with pytest.raises(GraspError, match="loss is nan"):
        search_weights(lambda weights: float("nan"), ["a"])


def test_the_search_has_lorahubs_numbers():
    loss, names = bowl(*[3.0] * 20)
    found = search_weights(loss, names)
    assert len(found.history) == 40
    assert max(abs(w) for e in found.history for w in e.weights.values()) == 1.5
    last = found.history[-1]
    assert last.objective == pytest.approx(last.loss + 0.05 * sum(map(abs, last.weights.values())) / 20)


def test_the_first_steps_are_a_third_of_the_bound():
    loss, names = bowl(0.1, 0.1)
    seen = search_weights(loss, names, bound=0.9).history
    steps = [max(abs(w) for w in one.weights.values()) for one in seen[:3]]
    assert steps == pytest.approx([0.0, 0.3, 0.3])


def test_a_search_ends_when_it_moves_less_than_a_thousandth_of_the_bound():
    loss, names = bowl(0.1, 0.1)
    assert 20 < len(search_weights(loss, names, budget=500).history) < 100


TASK = """
name: copy
prompt: "say {text}\\n"
target: title
languages:
  en: {train: en.jsonl}
  ar: {train: ar.jsonl}
"""
CONFIG = """
name: tiny
backbone: ROOT/backbone
task: ROOT/task.yaml
source: {language: en, adapter: ROOT/en}
target: {language: ar, adapter: ROOT/ar}
lorahub: {budget: 9, adapters: {other: ROOT/other}}
max_length: 40
max_new_tokens: 6
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Path:
    """A config with two sides and a third adapter, ready made."""
    root = tmp_path_factory.mktemp("lorahub")
    tiny_llama().save_pretrained(root / "backbone")
    tiny_tokenizer().save_pretrained(root / "backbone")
    for seed, name in enumerate(("en", "ar", "other")):
        random_adapter(tiny_llama(), root / name, seed=seed, target_modules=QV, r=2, lora_alpha=4)
        rows = [json.dumps({"text": f"{name} {i}", "title": "abcdefgh"[i % 8] + name}) for i in range(6)]
        (root / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    random_adapter(tiny_llama(), root / "wide", seed=3, target_modules=QV, r=4)
    (root / "task.yaml").write_text(TASK)
    (root / "run.yaml").write_text(CONFIG.replace("ROOT", str(root)))
    return root


def run_stage(root: Path, runs: str, *overrides: str) -> Path:
    x = start(root / "run.yaml", [f"runs={root / runs}", *overrides])
    (folder,) = make(x, [METHODS["lorahub"].adapter(x, 42)])
    return folder


@pytest.mark.parametrize("exact", ["false", "true"])
def test_the_stage(setting, exact, capsys):
    folder = run_stage(setting, f"runs-{exact}", f"lorahub.exact={exact}")
    found = json.loads((folder / "weights.json").read_text())
    lines = [json.loads(line) for line in (folder / "search.jsonl").read_text().splitlines()]
    assert len(lines) == found["evaluations"] == 9
    assert lines[0]["weights"] == {"en": 0.0, "ar": 0.0, "other": 0.0}
    best = min(lines, key=lambda line: line["objective"])
    assert {key: found[key] for key in ("weights", "loss", "objective")} == {
        key: best[key] for key in ("weights", "loss", "objective")
    }
    assert found["objective"] < lines[0]["objective"]
    assert found["optimiser"].startswith("SciPy")

    # What lies there has the loss that the search saw.
    x, resources = start(setting / "run.yaml"), Resources()
    backbone = resources.backbone(x.model)
    model = load_adapter(backbone.model, folder, trainable=False)
    train = resources.examples(x.rows(x.config.target, "train"))
    assert resources.loss(train, backbone, x.limits)(model) == found["loss"]
    names = {part.name for of_site in read_parts(folder).values() for part in of_site}
    assert names == ({"en", "ar", "other"} if exact == "true" else {"merged"})

    before = (folder / "done.json").read_bytes()
    assert run_stage(setting, f"runs-{exact}", f"lorahub.exact={exact}") == folder
    assert (folder / "done.json").read_bytes() == before  # skipped
    with pytest.raises(GraspError, match=r"penalty: was 0\.05, now 0\.1"):
        run_stage(setting, f"runs-{exact}", f"lorahub.exact={exact}", "lorahub.penalty=0.1")


def test_the_same_settings_give_the_same_bytes(setting):
    first, second = (run_stage(setting, runs, "lorahub.budget=4") for runs in ("runs-a", "runs-b"))
    outputs = [json.loads((folder / "done.json").read_text())["outputs"] for folder in (first, second)]
    assert outputs[0] == outputs[1]
    assert {"adapter_model.safetensors", "parts.json", "weights.json", "search.jsonl"} <= set(outputs[0])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "lorahub.adapters.bad=ROOT/nowhere",
            r"adapters\.bad.*nowhere is no folder",
        ),
        ("lorahub.adapters.en=ROOT/other", r"lorahub\.adapters\.en: 'en' is the run's own adapter"),
        ("lorahub.adapters.wide=ROOT/wide", r"needs equal ranks.*'wide' has 4"),
    ],
)
def test_adapters_that_do_not_fit(setting, override, message):
    with pytest.raises(GraspError, match=message):
        run_stage(setting, "runs-bad", override.replace("ROOT", str(setting)))
    assert not (setting / "runs-bad" / "tiny" / "combined" / "lorahub").exists()
