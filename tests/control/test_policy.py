"""GRASP Eqs. (2) to (6): numbers worked by hand, autograd, invariants."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grasp_lora.control.policy import Candidate, RatioPolicy, UniformPolicy
from grasp_lora.errors import GraspError

FINITE = st.floats(-10, 10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("name", ["sigma_init", "sigma_min"])
def test_a_spread_is_a_finite_number(name: str, value: float) -> None:
    with pytest.raises(GraspError, match=name):
        RatioPolicy(**{name: value})
    if name == "sigma_min":
        with pytest.raises(GraspError, match=name):
            RatioPolicy(sigma_min=0.0)
    else:
        assert RatioPolicy(sigma_init=0.0).sigma == 0.0


def policy_at(p_curr: float, mu: float, sigma: float, **options: float) -> RatioPolicy:
    policy = RatioPolicy(**options)
    policy.load_state_dict({**policy.state_dict(), "p_curr": p_curr, "mu": mu, "sigma": sigma})
    return policy


def drawn(policy: RatioPolicy, *z: float) -> list[Candidate]:
    return [Candidate(x, min(max(x, policy.p_min), policy.p_max)) for x in z]


def test_update_by_hand():
    # mu 0.4, sigma 0.2, z = 0.6, 0.4, 0.0; R = 0.4, 0.1, -0.2, mean 0.1, so A = 0.3, 0, -0.3.
    # g_mu    = (0.3 * 0.2 / 0.04 + 0 + -0.3 * -0.4 / 0.04) / 3              = (1.5 + 3) / 3  = 1.5
    # g_sigma = (0.3 * (0.04 - 0.04) + 0 - 0.3 * (0.16 - 0.04)) / 0.008 / 3  = -4.5 / 3       = -1.5
    # mu    = 0.4 + 0.05 * 1.5 - 0.05 * 0.1 * (0.4 - 0.3) = 0.4745
    # sigma = 0.2 + 0.05 * -1.5 + 0.01                    = 0.135
    # best p = 0.6: 0.3 + clip(0.3, 0.1)                  = 0.4
    policy = policy_at(0.3, 0.4, 0.2, eta=0.05, beta=0.1, tau=0.01, d_max=0.1)
    update = policy.tell(drawn(policy, 0.6, 0.4, 0.0), [-1.6, -1.9, -2.2], base_reward=-2.0)
    assert update.relative_rewards == pytest.approx((0.4, 0.1, -0.2))
    assert (policy.mu, policy.sigma) == pytest.approx((0.4745, 0.135))
    assert update.committed
    assert policy.p_curr == pytest.approx(0.4)


def test_anchor_pulls_to_the_ratio_before_the_commit():
    policy = policy_at(0.3, 0.5, 0.1, eta=0.5, beta=0.2, tau=0.0)
    policy.tell(drawn(policy, 0.5, 0.5), [1.0, 1.0], base_reward=0.0)  # equal rewards: no gradient
    assert policy.mu == pytest.approx(0.5 - 0.5 * 0.2 * (0.5 - 0.3))
    assert policy.p_curr == pytest.approx(0.4)


def test_unclamped_draw_enters_the_gradient():
    # z = 1.0 is evaluated at p_max = 0.8; the score uses 1.0: ((1.0 - 0.5) - (-0.5)) / 2 / 0.25 = 2
    policy = policy_at(0.5, 0.5, 0.5, eta=0.01, beta=0.0, tau=0.0)
    policy.tell(drawn(policy, 1.0, 0.0), [1.0, -1.0], base_reward=0.0)
    assert policy.mu == pytest.approx(0.5 + 0.01 * 2.0)


@pytest.mark.parametrize(
    ("relative", "committed", "p"),
    [
        ([-0.1, -0.2], False, 0.4),  # nothing better: unchanged
        ([0.0, -0.2], True, 0.45),  # as good counts
        ([-0.2, 0.1], True, 0.3),  # down, clipped to d_max
    ],
)
def test_commit_rule(relative, committed, p):
    policy = policy_at(0.4, 0.4, 0.1, d_max=0.1)
    update = policy.tell(drawn(policy, 0.45, 0.2), relative, base_reward=0.0)
    assert update.committed is committed
    assert policy.p_curr == pytest.approx(p)


def test_sigma_floor():
    policy = policy_at(0.4, 0.4, 0.1, eta=0.05, tau=0.0)
    policy.tell(drawn(policy, 0.4, 0.7), [100.0, -100.0], base_reward=0.0)
    assert policy.sigma == 1e-3


@given(st.lists(st.tuples(FINITE, st.floats(-0.5, 1.5)), min_size=1, max_size=6), st.floats(0.05, 1.0))
def test_gradient_is_autograd_of_the_log_density(pairs, sigma):
    rewards, z = [r for r, _ in pairs], [x for _, x in pairs]
    policy = policy_at(0.4, 0.4, sigma, eta=1.0, beta=0.0, tau=0.0, p_min=0.0, p_max=1.0)
    mu_t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    sigma_t = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor(rewards, dtype=torch.float64)
    advantages = advantages - advantages.mean()
    density = torch.distributions.Normal(mu_t, sigma_t).log_prob(torch.tensor(z, dtype=torch.float64))
    (advantages * density).mean().backward()
    policy.tell(drawn(policy, *z), rewards, base_reward=0.0)
    assert policy.mu == pytest.approx(min(1.0, max(0.0, 0.4 + mu_t.grad.item())), rel=1e-6, abs=1e-9)
    assert policy.sigma == pytest.approx(max(1e-3, sigma + sigma_t.grad.item()), rel=1e-6, abs=1e-9)


@given(st.integers(0, 2**32), st.lists(st.lists(FINITE, min_size=3, max_size=3), min_size=1, max_size=20))
def test_bounds_hold_and_steps_are_small(seed, rounds):
    policy = RatioPolicy(seed=seed)
    for rewards in rounds:
        before = policy.p_curr
        candidates = policy.ask()
        assert all(0.10 <= c.p <= 0.80 and c.clamped == (c.z != c.p) for c in candidates)
        policy.tell(candidates, rewards, base_reward=0.0)
        assert abs(policy.p_curr - before) <= policy.d_max + 1e-12
        assert 0.10 <= policy.p_curr <= 0.80
        assert 0.10 <= policy.mu <= 0.80
        assert policy.sigma >= 1e-3


@given(st.lists(FINITE, min_size=3, max_size=3), st.floats(-100, 100))
def test_base_reward_only_moves_the_commit(rewards, base):
    low, high = RatioPolicy(seed=1), RatioPolicy(seed=1)
    for policy, shift in ((low, 0.0), (high, base)):
        policy.tell(policy.ask(), [r + shift for r in rewards], base_reward=shift)
    assert low.mu == pytest.approx(high.mu, abs=1e-6)
    assert low.sigma == pytest.approx(high.sigma, abs=1e-3)


def test_restored_policy_continues_identically_and_state_is_json():
    policy = RatioPolicy(seed=7)
    policy.tell(policy.ask(), [0.1, 0.2, 0.3], base_reward=0.0)
    restored = RatioPolicy(seed=0)
    restored.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    for _ in range(5):
        candidates = policy.ask()
        assert restored.ask() == candidates
        rewards = [math.sin(9 * c.p) for c in candidates]
        assert policy.tell(candidates, rewards, 0.0) == restored.tell(candidates, rewards, 0.0)


def test_draws_leave_global_generators_alone():
    before = torch.random.get_rng_state()
    RatioPolicy(seed=3).ask()
    assert torch.equal(before, torch.random.get_rng_state())


def test_defaults_are_table_7():
    policy = RatioPolicy()
    assert policy.sigma == pytest.approx(0.7 / 6)
    assert (policy.mu, policy.p_curr, policy.candidates) == (0.4, 0.4, 3)
    assert (policy.eta, policy.beta, policy.tau, policy.d_max) == (0.05, 0.05, 0.01, 0.10)


@pytest.mark.parametrize(
    "options",
    [
        {"p_min": 0.9},
        {"p_max": 1.2},
        {"p_init": 0.05},
        {"candidates": 0},
        {"eta": -1},
        {"tau": math.nan},
        {"sigma_min": 0},
    ],
)
def test_bad_arguments(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RatioPolicy(**options)


@pytest.mark.parametrize(
    ("rewards", "base"), [([0.0, math.nan, 0.0], 0.0), ([0.0] * 3, math.inf), ([0.0] * 2, 0.0)]
)
def test_bad_rewards(rewards, base):
    policy = RatioPolicy()
    with pytest.raises(ValueError, match="reward"):
        policy.tell(policy.ask(), rewards, base)


def test_even_draws_learn_nothing_but_commit_as_ever():
    policy = UniformPolicy(p_init=0.4, p_min=0.2, p_max=0.7, candidates=500, d_max=0.1, seed=3)
    asked = policy.ask()
    assert all(one.z == one.p for one in asked)
    ratios = sorted(one.p for one in asked)
    assert 0.2 <= ratios[0] < 0.21
    assert 0.69 < ratios[-1] <= 0.7
    assert sum(ratios) / 500 == pytest.approx(0.45, abs=0.02)
    assert [one.p for one in UniformPolicy(p_min=0.2, p_max=0.7, candidates=500, seed=3).ask()] == [
        one.p for one in asked
    ]
    update = policy.tell(asked[:2], [1.0, 2.0], base_reward=0.0)
    assert policy.mu == update.mu == pytest.approx(0.45)
    assert policy.sigma == update.sigma == pytest.approx(0.5 / 12**0.5)  # the even distribution's own
    assert policy.p_curr == pytest.approx(0.4 + max(-0.1, min(0.1, asked[1].p - 0.4)))


def test_the_seed_is_42_and_draws_are_added_to_the_mean():
    drawn = [c.z for c in RatioPolicy().ask()]
    assert drawn == [c.z for c in RatioPolicy(seed=42).ask()] != [c.z for c in RatioPolicy(seed=43).ask()]
    policy = RatioPolicy(seed=5, candidates=4)
    normal = np.random.default_rng(5).standard_normal(4)
    assert [c.z for c in policy.ask()] == pytest.approx(list(policy.mu + policy.sigma * normal))


@pytest.mark.parametrize("name", ["eta", "beta", "tau", "d_max"])
def test_the_setting_that_is_no_number_is_named(name):
    with pytest.raises(GraspError, match=f"^{name} must be a finite"):
        RatioPolicy(**{name: float("nan")})
