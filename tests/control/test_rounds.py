"""Rounds: what a file and a training log have of them, and the choice of p* from them."""

import json

import pytest

from grasp_lora.control.rounds import ROUNDS_FILE, Probe, Round, read_rounds
from grasp_lora.control.selection import select_ratio
from grasp_lora.errors import GraspError


def made(number, p, base, *probes, p_next=0.33, mu_next=0.44):
    probes = tuple(Probe(z, min(max(z, 0.1), 0.8), reward) for z, reward in probes)
    return Round(number, number * 10, p, 0.4, 0.1, base, probes, True, p_next, mu_next, 0.12)


def test_a_file_gives_back_the_rounds(tmp_path):
    rounds = (made(1, 0.4, -3.0, (0.5, 0.9), (0.9, -0.5)), made(2, 0.5, -2.0, (0.05, 0.1)))
    (tmp_path / ROUNDS_FILE).write_text("".join(one.to_json() + "\n" for one in rounds))
    assert read_rounds(tmp_path) == rounds
    first = json.loads((tmp_path / "rounds.jsonl").read_text().splitlines()[0])
    assert first["probes"][1] == {"z": 0.9, "p": 0.8, "reward": -0.5, "standard_error": None}
    for probe in first["probes"]:  # as an earlier version wrote them
        del probe["standard_error"]
    assert Round.from_json(json.dumps(first)) == rounds[0]


@pytest.mark.parametrize("content", ["", "{", "null", '{"a": 1}', "[]"])
def test_a_file_that_holds_no_rounds_is_said(tmp_path, content):
    (tmp_path / ROUNDS_FILE).write_text(content)
    with pytest.raises(GraspError, match=r"rounds\.jsonl (cannot be read as rounds|holds no round)"):
        read_rounds(tmp_path)


def test_of_a_damaged_file_the_line_is_named(tmp_path):
    whole, bare = (made(1, 0.4, -3.0, *probes).to_json() for probes in ([(0.5, 0.9)], []))
    for last, why in (whole[:-20], "is no round, or not a whole one"), (bare, "has no probes"):
        (tmp_path / ROUNDS_FILE).write_text(f"{whole}\n{last}")
        with pytest.raises(GraspError, match=rf"rounds\.jsonl .*: line 2 {why}.*: make it again, with --f"):
            read_rounds(tmp_path)


def test_what_a_log_shows():
    values = made(1, 0.4, -3.0, (0.5, 0.9), (0.9, -0.5), (0.2, 0.2), (0.05, 0.0)).log_values()
    assert values == {
        "grasp/p_curr": 0.33,
        "grasp/mu": 0.44,
        "grasp/sigma": 0.12,
        "grasp/base_reward": -3.0,
        "grasp/best_reward": 0.9,
        "grasp/mean_reward": pytest.approx(0.15),
        "grasp/clamped_share": 0.5,
        "grasp/mask_changed": 0.0,
        "grasp/mask_reverted": 0.0,
    }


def test_each_rule_takes_its_ratio_and_says_so():
    rounds = [
        made(1, 0.4, -3.0, (0.5, 0.9), (0.3, -0.5)),  # -2.1 at 0.5: the largest relative reward
        made(2, 0.5, -2.0, (0.6, 0.1), (0.7, 0.1)),  # -1.9 at 0.6: the largest absolute one; 0.7 ties later
        made(3, 0.6, -2.5, (0.2, 0.2), p_next=0.35, mu_next=0.46),
    ]
    best = select_ratio(rounds)
    assert (best.best_ratio, best.best_reward, best.rule) == (0.6, pytest.approx(-1.9), "best")
    assert best.rounds == tuple(rounds)
    last, mean = select_ratio(rounds, "last"), select_ratio(rounds, "policy_mean")
    assert (last.best_ratio, last.best_reward, last.rule) == (0.35, None, "last")
    assert (mean.best_ratio, mean.best_reward, mean.rule) == (0.46, None, "policy_mean")
    assert last.rounds == mean.rounds == tuple(rounds)
    assert select_ratio([made(1, 0.4, -1.0, (0.5, -0.1))]).best_ratio == 0.4  # p_curr itself counts


def test_without_a_round_there_is_no_ratio():
    with pytest.raises(GraspError, match=r"^no controller round was made: .*least K .*\(control\.every\)$"):
        select_ratio([])
