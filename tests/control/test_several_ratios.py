"""A ratio for each adapter of a merge: n Gaussians that share one reward."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_lora.control.noise import Look
from grasp_lora.control.policy import RatioPolicy, UniformPolicy
from grasp_lora.control.rounds import ROUNDS_FILE, Probe, Round, read_rounds
from grasp_lora.control.selection import select_ratio
from grasp_lora.control.warnings import warnings_of
from grasp_lora.errors import GraspError
from grasp_lora.ratios import PerAdapter, Several

WIDE = {"adapters": 2, "p_min": 0.0, "p_max": 1.0}


def test_each_ratio_moves_as_if_it_were_alone():
    """Eqs. (2) to (6) of one coordinate, by a policy of one ratio that is told the same draws."""
    both = RatioPolicy(**WIDE, candidates=4, sigma_init=0.2, d_max=0.05)
    alone = [RatioPolicy(p_min=0.0, p_max=1.0, candidates=4, sigma_init=0.2, d_max=0.05) for _ in "ab"]
    for number in range(20):
        drawn = both.ask()
        rewards = [-((c.p[0] - 0.9) ** 2) - (c.p[1] - 0.1) ** 2 + number for c in drawn]
        both.tell(drawn, rewards, number - 0.2)
        for i, policy in enumerate(alone):
            own = [type(c)(c.z[i], c.p[i]) for c in drawn]
            policy.tell(own, rewards, number - 0.2)
            assert (both.p_curr[i], both.mu[i], both.sigma[i]) == (policy.p_curr, policy.mu, policy.sigma)
    assert both.p_curr[0] > 0.45 > 0.35 > both.p_curr[1]


@given(st.integers(0, 99), st.sampled_from([RatioPolicy, UniformPolicy]))
def test_never_is_everything_pruned(seed, kind):
    policy = kind(**WIDE, p_init=0.99, d_max=1.0, sigma_init=2.0, eta=5.0, seed=seed)
    for _ in range(10):
        drawn = policy.ask()
        policy.tell(drawn, [sum(c.p) for c in drawn], 0.0)
        for ratio in (*(c.p for c in drawn), policy.p_curr, policy.mu, *policy.near(policy.p_curr)):
            assert isinstance(ratio, PerAdapter)
            assert min(ratio) < 1.0
            assert 0.0 <= min(ratio) <= max(ratio) <= 1.0


def test_it_goes_on_where_its_state_was_taken():
    policy = RatioPolicy(**WIDE)
    drawn = policy.ask()
    policy.tell(drawn, [0.0, 1.0, 2.0], 0.5)
    other = RatioPolicy(**WIDE, seed=1)
    other.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    assert other.ask() == policy.ask()
    with pytest.raises(ValueError, match="2 ratios, and the policy 1"):
        RatioPolicy().load_state_dict(policy.state_dict())


@pytest.mark.parametrize("wrong", [{"adapters": 1}, {"adapters": 2, "p_max": 1.0, "p_init": 1.0}])
def test_several_are_two_or_more_and_leave_something(wrong):
    with pytest.raises(GraspError, match="p_init below 1"):
        RatioPolicy(**wrong)


NEXT = PerAdapter((0.5, 0.2))


def made(p, reward, p_next=NEXT):
    probes = (Probe(Several((1.2, 0.1)), PerAdapter((1.0, 0.1)), reward),)
    sigma = Several((0.1, 0.3))
    return Round(1, 2, p, PerAdapter((0.4, 0.4)), sigma, -2.0, probes, True, p_next, p_next, sigma)


def test_rounds_are_lists_in_a_file_and_come_back(tmp_path):
    one = made(PerAdapter((0.4, 0.4)), 0.5)
    assert json.loads(one.to_json())["p_next"] == [0.5, 0.2]
    (tmp_path / ROUNDS_FILE).write_text(one.to_json() + "\n")
    for read in (read_rounds(tmp_path)[0], Round.from_json(one.to_json())):
        assert read == one
        assert [type(read.p_curr), type(read.sigma)] == [PerAdapter, Several]
    values = one.log_values(("en", "ar"))
    assert (values["grasp/p_curr/en"], values["grasp/p_curr/ar"], values["grasp/sigma/ar"]) == (0.5, 0.2, 0.3)
    assert values["grasp/clamped_share"] == 1.0
    mixed = json.dumps(json.loads(one.to_json()) | {"p_next": 0.5})
    (tmp_path / ROUNDS_FILE).write_text(mixed + "\n")
    with pytest.raises(GraspError, match="a number that no round has"):
        read_rounds(tmp_path)


def test_rules_that_look_at_points_work_and_curves_are_refused():
    rounds = [made(PerAdapter((0.4, 0.4)), 0.5)]
    assert select_ratio(rounds).best_ratio == (1.0, 0.1)
    assert (
        select_ratio(rounds, "last").best_ratio
        == select_ratio(rounds, "policy_mean").best_ratio
        == (0.5, 0.2)
    )
    for rule in ("curve", "sparsest"):
        with pytest.raises(GraspError, match=f"select: {rule} is of one ratio for all adapters"):
            select_ratio(rounds, rule)


def test_a_look_and_what_it_warns_of(tmp_path):
    p, nothing = PerAdapter((0.0, 1.0)), PerAdapter((0.0, 0.0))
    look = Look(p, {nothing: (1.0, 2.0), p: (0.5, 1.4)}, {})
    look.write(tmp_path)
    assert Look.read(tmp_path) == look
    few, worse = warnings_of(p, [made(nothing, 0.5)], 0.0, 1.0, look)[::2]
    assert "p* = 0.000, 1.000 is from 1 probes" in few
    assert "p* = 0.000, 1.000 is worse than no pruning at all" in worse
