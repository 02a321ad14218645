"""A controller round, in a plain PyTorch loop on a tiny PEFT model."""

import json
import time

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.helpers.models import tiny_llama, tokens

from grasp_lora.control.controller import GraspController
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.control.rounds import Round
from grasp_lora.control.units import adapter_parameters
from grasp_lora.errors import GraspError


def adapted(seed=0):
    torch.manual_seed(seed)
    model = get_peft_model(
        tiny_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def fit(controller_options=None, steps=6, seed=0, reward=None):
    """Five lines of plain PyTorch."""
    model = adapted(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batch, held_out = tokens(seed=1), tokens(seed=2)
    reward = reward or (lambda m: -m(input_ids=held_out, labels=held_out).loss.item())
    controller = GraspController(model, optimizer, reward, **{"every": 2, **(controller_options or {})})
    model.train()
    for _ in range(steps):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        controller.after_optimizer_step()
    return controller


def test_plain_loop():
    controller = fit()
    result = controller.result
    assert [r.step for r in result.rounds] == [2, 4, 6]
    assert 0.1 <= result.best_ratio <= 0.8
    assert controller.masked.p == controller.policy.p_curr == result.rounds[-1].p_next
    for before, after in zip(result.rounds, result.rounds[1:], strict=False):
        assert (after.p_curr, after.mu, after.sigma) == (before.p_next, before.mu_next, before.sigma_next)
    for name, mask in controller.masked.masks().items():
        assert (dict(controller.model.named_parameters())[name][~mask] == 0).all()
    assert min(controller.masked.pruned_shares().values()) >= controller.masked.p - 1 / 32


def test_a_probe_sees_exactly_the_mask_of_its_ratio():
    seen = []

    def reward(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        factors = [p for n, p in model.named_parameters() if "lora_" in n]
        seen.append(sum((p == 0).sum().item() for p in factors) / sum(p.numel() for p in factors))
        return -abs(seen[-1] - 0.6)

    controller = fit({"policy": RatioPolicy(candidates=4, seed=3)}, reward=reward)
    for r in controller.rounds:
        base, *probed = seen[:5]
        seen = seen[5:]
        assert base == pytest.approx(r.p_curr, abs=0.05)
        assert probed == pytest.approx([x.p for x in r.probes], abs=0.05)
    assert controller.result.best_ratio == pytest.approx(0.6, abs=0.15)
    assert controller.model.training


def test_two_runs_write_the_same_rounds_byte_for_byte(tmp_path):
    for name in ("one", "two"):
        fit({"folder": tmp_path / name})
    one, two = ((tmp_path / name / "rounds.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    rounds = [Round.from_json(line) for line in one.decode().splitlines()]
    assert [r.to_json() for r in rounds] == one.decode().splitlines()
    timings = [json.loads(line) for line in (tmp_path / "one" / "timings.jsonl").read_text().splitlines()]
    assert all(0 < t["reward_seconds"] <= t["seconds"] for t in timings)
    assert len(timings) == len(rounds) == 3


def test_candidates_at_one_bound_are_evaluated_once():
    calls = []

    def reward(model):
        calls.append(model)
        return 0.0

    options = {"policy": RatioPolicy(p_min=0.5, p_max=0.5, p_init=0.5, sigma_init=0.1)}
    controller = fit(options, steps=2, reward=reward)
    assert len(calls) == 2  # the base and one candidate for all three
    assert [x.p for x in controller.rounds[0].probes] == [0.5] * 3
    assert controller.rounds[0].log_values()["grasp/clamped_share"] == 1.0


def test_weights_are_restored_when_the_reward_raises():
    model = adapted()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    calls = []

    def reward(_):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return 0.0

    controller = GraspController(model, optimizer, reward, every=1)
    before = [p.clone() for p in controller.masked.parameters]
    model.train()
    with pytest.raises(RuntimeError, match="out of memory"):
        controller.after_optimizer_step()
    assert all(torch.equal(x, y) for x, y in zip(before, controller.masked.parameters, strict=True))
    assert model.training


def test_a_reward_that_is_not_finite_stops_and_names_the_step():
    with pytest.raises(GraspError, match=r"step 2: .* nan"):
        fit(reward=lambda _: float("nan"))


def test_needs_a_trainable_adapter():
    model = tiny_llama().requires_grad_(False)
    with pytest.raises(ValueError, match=r"^the model has no trainable LoRA parameters; .*=True$"):
        GraspController(model, torch.optim.SGD([torch.zeros(1)]), lambda _: 0.0)


@pytest.mark.parametrize("untrained", [False, True])
def test_the_first_masks_clear_moments_too(untrained):
    """At construction; and of what was all zeros then, in the first round."""
    model = adapted()
    parameters = adapter_parameters(model)
    if untrained:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.mul_(".lora_A." in name)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    batch = tokens(seed=1)

    def step():
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    if untrained:
        policy = RatioPolicy(p_min=0.5, p_init=0.5, p_max=0.5)
        controller = GraspController(model, optimizer, lambda _: 0.0, policy=policy, every=2)
        for _ in range(2):
            step()
            controller.after_optimizer_step()
    else:
        step()
        controller = GraspController(model, optimizer, lambda _: 0.0)
    for parameter, mask in zip(parameters.values(), controller.masked.masks().values(), strict=True):
        moments = optimizer.state[parameter]["exp_avg"]
        assert (moments[~mask] == 0).all()
        assert (moments[mask] != 0).any()
        assert 0 < mask.float().mean() < 1


def test_rounds_and_timings_say_what_happened(tmp_path):
    told = []
    policy = RatioPolicy(p_min=0.3, p_init=0.4, p_max=0.5, sigma_init=0.5, candidates=6, seed=1)
    options = {"policy": policy, "folder": tmp_path / "a" / "b", "on_round": lambda *one: told.append(one)}
    start = time.perf_counter()
    controller = fit(options)
    took = time.perf_counter() - start
    drawn = RatioPolicy(p_min=0.3, p_init=0.4, p_max=0.5, sigma_init=0.5, candidates=6, seed=1).ask()
    assert [(x.z, x.p) for x in controller.rounds[0].probes] == [(c.z, c.p) for c in drawn]
    assert any(x.z != x.p for x in controller.rounds[0].probes)
    assert [r.round for r in controller.rounds] == [1, 2, 3]
    assert [made for made, _ in told] == controller.rounds
    timings = [json.loads(line) for line in (tmp_path / "a/b/timings.jsonl").read_text().splitlines()]
    assert [list(line) for line in timings] == [["round", "seconds", "reward_seconds"]] * 3
    assert [line["round"] for line in timings] == [1, 2, 3]
    assert [line["seconds"] for line in timings] == [seconds for _, seconds in told]
    assert all(0 < line["reward_seconds"] < line["seconds"] < took for line in timings)


class _TwoRanks:
    """What `torch.distributed` answers on one of two ranks; the other's numbers are all 3."""

    def __init__(self, monkeypatch, rank=0):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(3.0))


@pytest.mark.parametrize("whole", [True, False])
def test_a_reward_that_leaves_the_model_in_training_mode_is_the_only_one_to_see_it(whole):
    modes = []

    def reward(model):
        modes.append(any(module.training for module in model.modules()))
        (model if whole else [*model.modules()][-1]).train()
        return 1.0

    controller = fit(steps=0, reward=reward)
    controller.model.eval()
    next(controller.model.children()).train()
    before = [module.training for module in controller.model.modules()]
    controller.prober.base()
    controller.prober.at([0.1, 0.2])
    assert modes == [False, False, False]
    assert [module.training for module in controller.model.modules()] == before


def test_a_reward_is_the_mean_over_the_ranks(monkeypatch):
    controller = fit(steps=0, reward=lambda _: 1.0 + 2**-40)
    _TwoRanks(monkeypatch)
    assert controller.prober.base().mean == 2.0 + 2**-41  # as exact as a float


def test_the_rewards_of_examples_are_means_over_the_ranks(monkeypatch):
    controller = fit(steps=0, reward=lambda _: torch.tensor([1.0, 5.0]))
    _TwoRanks(monkeypatch)
    seen = controller.prober.base()
    assert (seen.mean, seen.by_example) == (3.0, (2.0, 4.0))


@pytest.mark.parametrize(("rank", "files"), [(0, 2), (1, 0)])
def test_one_rank_writes(monkeypatch, tmp_path, rank, files):
    _TwoRanks(monkeypatch, rank)
    fit({"folder": tmp_path / "x"}, steps=2, reward=lambda _: 1.0)
    assert len(list(tmp_path.rglob("*.jsonl"))) == files


def test_a_probe_that_fails_names_its_ratio():
    rewards = iter([0.0, float("inf")])
    policy = RatioPolicy(p_min=0.25, p_init=0.25, p_max=0.25)
    with pytest.raises(GraspError, match=r"^step 2: the reward at p = 0\.2500 is inf$"):
        fit({"policy": policy}, reward=lambda _: next(rewards))


@pytest.mark.hostile("C = 1", "rounds with one candidate")
def test_a_commit_clears_the_moments_of_what_it_changes():
    model = adapted()
    parameters = adapter_parameters(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    up = iter([-1.0, 0.0])  # the only candidate is better, so the ratio moves to it
    policy = RatioPolicy(candidates=1, d_max=0.5, sigma_init=0.3, seed=0)
    controller = GraspController(model, optimizer, lambda _: next(up), policy=policy, every=3)
    before = {name: mask.clone() for name, mask in controller.masked.masks().items()}
    batch = tokens(seed=1)
    for _ in range(3):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        controller.after_optimizer_step()
    assert controller.rounds[0].committed
    for name, parameter in parameters.items():
        mask, state = controller.masked.masks()[name], optimizer.state[parameter]
        assert (changed := before[name] ^ mask).any()
        for moment in ("exp_avg", "exp_avg_sq"):
            assert (state[moment][changed] == 0).all()
            assert (state[moment][before[name] & mask] != 0).all()
