"""The verdict on made-up rows, by hand."""

import pytest

from grasp_lora.metrics.significance import paired_bootstrap
from grasp_lora.reporting.found import compare_with, together
from grasp_lora.reporting.verdict import doubts, verdict
from grasp_lora.workspace.rows import Row


def cost(passes):
    return {"seconds": 60.0, "forward_examples": passes, "backward_examples": 0}


def row(method, dev, test, passes, *, p=None, seed=42, **more):
    """Losses of each row; `passes` of one stage of its own."""
    costs = {f"{method}/seed{seed}": cost(passes)}
    about = {
        "title": method.upper(),
        "adapter": f"{method}/seed42",
        "p": p,
        "costs": costs,
        "all_costs": costs,
    }
    losses = {"dev_loss": sum(dev) / len(dev), "dev_losses": dev, "test_losses": test}
    return Row(method=method, seed=seed, scores={}, answers=[], **losses, **about, **more)


def said(*rows):
    return verdict(together(rows))


WIDE = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


def shifted(losses, by, *, noise=0.0):
    """Each loss by so much more, and by the noise up and down in turns."""
    return [loss + by + (noise if i % 2 else -noise) for i, loss in enumerate(losses)]


def test_the_simplest_within_the_margin_is_deployed():
    """0.009 worse on every row: certain, and too little to pay for."""
    merge, grasp = row("merge", shifted(WIDE, 0.009), WIDE, 100, p=0.0), row("grasp", WIDE, WIDE, 300, p=0.3)
    found = said(merge, grasp)
    assert found.method == "merge"
    assert found.lines[0].startswith(
        "Deploy: MERGE (merge/seed42), within noise of the best on dev (GRASP), and of those the one"
    )


def test_what_is_worse_by_more_than_noise_is_not_deployed():
    merge, grasp = row("merge", shifted(WIDE, 0.02), WIDE, 100, p=0.0), row("grasp", WIDE, WIDE, 300, p=0.3)
    found = said(merge, grasp)
    assert found.method == "grasp"
    assert "best on dev" in found.lines[0]


@pytest.mark.parametrize(("noise", "method"), [(0.01, "grasp"), (0.2, "merge")])
def test_noise_is_of_the_paired_differences(noise, method):
    """0.05 worse on average; six differences of 0.05 +- noise have a standard error of 0.45 noise."""
    dev = shifted(WIDE, 0.05, noise=noise)
    assert said(row("merge", dev, WIDE, 100, p=0.0), row("grasp", WIDE, WIDE, 300, p=0.3)).method == method


def test_intervals_are_of_test_rows():
    better = shifted(WIDE, -0.1, noise=0.01)
    deploy, pruning, _ = said(
        row("merge", WIDE, WIDE, 100, p=0.0), row("grasp", shifted(WIDE, -1), better, 300, p=0.3)
    ).lines
    assert "On test -0.1000 nats [-0.1" in deploy
    assert deploy.endswith("] against the simplest other, MERGE.")
    assert pruning.startswith("Pruning helped: GRASP at p = 0.300 has -0.1000 nats [-0.1")


@pytest.mark.parametrize(
    ("by", "noise", "word"), [(0.1, 0.01, "hurt"), (0.01, 0.5, "cannot be told from no pruning")]
)
def test_whether_pruning_helped(by, noise, word):
    worse = shifted(WIDE, by, noise=noise)
    lines = said(row("merge", WIDE, WIDE, 100, p=0.0), row("grasp", WIDE, worse, 300, p=0.3)).lines
    assert lines[1].startswith(f"Pruning {word}: GRASP at p = 0.300 has {by:+.4f} nats")


def test_what_it_cost():
    """What several methods share is paid once by all of them together."""
    shared = {"adapters/ar": cost(1000)}
    merge, grasp = row("merge", WIDE, WIDE, 100, p=0.0), row("grasp", shifted(WIDE, -1), WIDE, 300, p=0.3)
    for one in (merge, grasp):
        object.__setattr__(one, "all_costs", {**one.all_costs, **shared})
    object.__setattr__(grasp, "made_by", ["final/seed42", "adapters/ar"])
    assert said(merge, grasp).lines[2] == (
        "Cost: 1,300 example passes (2.0 minutes) beyond the sources' adapters, 300 of them on choosing; "
        "all methods here took 1,400."
    )


def test_a_control_is_never_deployed():
    control = row("merge_random", shifted(WIDE, -1), WIDE, 1, control_of="merge")
    assert said(row("merge", WIDE, WIDE, 100, p=0.0), control).method == "merge"


def test_one_method_has_nothing_to_be_compared_with():
    lines = said(row("lora_target", WIDE, WIDE, 100)).lines
    assert lines[0].endswith("There is nothing to compare it with.")
    assert lines[1].startswith("Pruning: nothing to say")


def test_seeds_are_averaged_and_old_rows_have_the_margin_alone():
    rows = [
        row("merge", shifted(WIDE, by), WIDE, 100, p=0.0, seed=seed) for seed, by in ((42, 0.1), (7, -0.1))
    ]
    assert said(*rows, row("grasp", WIDE, WIDE, 300, p=0.3)).method == "merge"
    for one in rows:
        object.__setattr__(one, "dev_losses", ())
    assert said(*rows, row("grasp", WIDE, WIDE, 300, p=0.3)).method == "merge"
    one_row = said(row("merge", [1.0], [2.0], 100, p=0.0), row("grasp", [0.5], [1.5], 300, p=0.3))
    assert "On test +0.5000 nats against" in one_row.lines[0]


def test_a_sources_adapter_is_free():
    """Whatever its training took: every method here needs it, or could."""
    source = row("lora_source", WIDE, WIDE, 9999)
    object.__setattr__(source, "all_costs", {})
    found = said(row("merge", shifted(WIDE, -0.005), WIDE, 100, p=0.0), source)
    assert found.method == "lora_source"
    assert found.lines[2].startswith("Cost: 0 example passes")


# Refits, draws, doubts


def test_the_refit_of_the_chosen_one_is_deployed():
    refit = row("merge_refit", WIDE, shifted(WIDE, -0.3), 500, p=0.0, refit_of="merge")
    object.__setattr__(refit, "dev_loss", None)
    grasp = row("grasp", shifted(WIDE, 0.5), WIDE, 300, p=0.3)
    found = said(row("merge", WIDE, WIDE, 100, p=0.0), refit, grasp)
    assert found.method == "merge_refit"
    assert found.lines[0].startswith(
        "Deploy: MERGE_REFIT (merge_refit/seed42), after MERGE was best on dev. On test -0.3000 nats"
    )
    assert found.lines[0].endswith(
        "against the simplest other, GRASP. "
        "The further labelled rows changed test by -0.3000 nats [-0.3000, -0.3000]."
    )
    assert found.lines[2].startswith("Cost: 500 example passes")
    alone = row("cross_validate", WIDE, WIDE, 900, p=0.3)
    object.__setattr__(alone, "dev_loss", None)
    assert said(row("merge", WIDE, WIDE, 100, p=0.0), alone).method == "merge"


@pytest.mark.parametrize(("moved", "method"), [(0.02, "grasp"), (0.03, "merge")])
def test_noise_is_of_the_draws_too(moved, method):
    """0.05 worse, on every row alike, as much more in one draw as it is less in the other, which is the
    standard error over two draws: 1.96 of it count.
    """
    rows = [
        row("merge", shifted(WIDE, 0.05 + by), WIDE, 100, p=0.0, draw=draw)
        for draw, by in ((0, moved), (1, -moved))
    ]
    rows += [row("grasp", WIDE, WIDE, 300, p=0.3, draw=draw) for draw in (0, 1)]
    assert said(*rows).method == method


def test_intervals_on_test_are_over_draws_too():
    """On every row alike -0.08, -0.1 and -0.12 in three draws: half is 4.303 * 0.02 / sqrt(3) = 0.0497."""
    rows = [row("merge", shifted(WIDE, 0.05), WIDE, 100, p=0.0, draw=draw) for draw in range(3)]
    rows += [
        row("grasp", WIDE, shifted(WIDE, by), 300, p=0.3, draw=draw)
        for draw, by in enumerate((-0.08, -0.1, -0.12))
    ]
    assert "On test -0.1000 nats [-0.1497, -0.0503] over 3 draws against" in said(*rows).lines[0]


def test_a_refit_is_compared_with_refits():
    merge, again = (
        row("merge", WIDE, WIDE, 100, p=0.0),
        row("merge_refit", WIDE, shifted(WIDE, 0.2), 500, p=0.0),
    )
    other = row("grasp", shifted(WIDE, 0.5), WIDE, 300, p=0.3)
    another = row("grasp_refit", WIDE, shifted(WIDE, 0.5), 700, p=0.3)
    for one, of in ((again, "merge"), (another, "grasp")):
        object.__setattr__(one, "dev_loss", None)
        object.__setattr__(one, "refit_of", of)
    results = together([merge, again, other, another])
    text = verdict(results).lines[0]
    assert "On test -0.3000 nats [-0.3000, -0.3000] against the simplest other, GRASP_REFIT." in text
    assert text.endswith("The further labelled rows changed test by +0.2000 nats [+0.2000, +0.2000].")
    assert doubts(results)[1:] == [
        f"{name}_REFIT: worse on test than without these, {by} nats [{by}, {by}]"
        for name, by in (("MERGE", "+0.2000"), ("GRASP", "+0.5000"))
    ]
    compared = compare_with(results[2], results)
    assert set(compared) == {"merge", "merge_refit"}
    assert compared["merge_refit"][0].first == pytest.approx(sum(another.test_losses) / 6)


def test_what_all_behind_it_spent_on_choosing():
    one = row("merge", WIDE, WIDE, 100, p=0.0)
    object.__setattr__(one, "all_costs", {**one.all_costs, "tune/adapters/ar-lr0.1": cost(40)})
    object.__setattr__(one, "made_by", ["merge/seed42"])
    assert (
        said(one)
        .lines[2]
        .startswith("Cost: 140 example passes (2.0 minutes) beyond the sources' adapters, 40 of")
    )


def test_nothing_better_than_the_simplest_is_said():
    merge = row("merge", shifted(WIDE, 0.009), WIDE, 100, p=0.0)
    grasp = row("grasp", WIDE, WIDE, 300, p=0.3)
    assert doubts(together([merge, grasp])) == [
        "no method is better on dev than the simplest, MERGE, by more than noise"
    ]
    better = row("merge", shifted(WIDE, 0.02), WIDE, 100, p=0.0)
    assert doubts(together([better, grasp])) == []
    assert doubts(together([merge])) == []


def test_a_random_source_that_does_as_well_is_said():
    simple = row("lora_target", shifted(WIDE, 1), WIDE, 10)
    merge = row("merge", WIDE, WIDE, 100, p=0.0)
    as_good, worse = (
        row("merge_random", shifted(WIDE, by), WIDE, 100, control_of="merge") for by in (0.009, 0.02)
    )
    assert doubts(together([simple, merge, worse])) == []
    assert doubts(together([simple, merge, as_good])) == [
        "MERGE_RANDOM: as good on dev as MERGE, so that what the source's adapter adds is not what it knows"
    ]
    assert doubts(together([simple, merge, as_good][::2])) == []


def test_where_all_were_trained_on_dev_nothing_is_chosen():
    rows = [row(name, WIDE, WIDE, passes) for name, passes in (("folds", 900), ("other", 300))]
    for one in rows:
        object.__setattr__(one, "dev_loss", None)
        object.__setattr__(one, "dev_losses", ())
    found = said(*rows)
    assert found.method == "other"
    assert "all here were trained on dev, so that nothing was left to choose by." in found.lines[0]
    assert doubts(together(rows)) == []


def test_one_dev_row_cannot_tell_methods_apart():
    merge = row("merge", [9.0], WIDE, 100, p=0.0)
    assert said(merge, row("grasp", [1.0], WIDE, 300, p=0.3)).method == "merge"


def test_dev_and_test_rows_of_one_group_are_one_cluster():
    """Three groups of two: what is sure of six rows is not of three clusters."""
    groups = ["a", "a", "b", "b", "c", "c"]
    noisy = [loss + 0.05 + (0.06, 0.06, -0.04, -0.04, -0.02, -0.02)[i] for i, loss in enumerate(WIDE)]
    for grouped, method in (((), "grasp"), (groups, "merge")):
        merge = row("merge", noisy, noisy, 100, p=0.0, dev_groups=grouped, groups=grouped)
        grasp = row("grasp", WIDE, WIDE, 300, p=0.3, dev_groups=grouped, groups=grouped)
        assert said(merge, grasp).method == method
    interval = paired_bootstrap(noisy, WIDE, groups=groups)[1]
    shown = "[{:+.4f}, {:+.4f}]".format(*interval)
    assert shown in said(merge, grasp).lines[1]


def test_a_ratio_of_a_sweep_is_not_chosen():
    """That would be a grid search for free."""
    points = [row(f"sweep_{p}", shifted(WIDE, -p), WIDE, 200, p=p, is_point=True) for p in (0.2, 0.6)]
    found = said(row("merge", WIDE, WIDE, 100, p=0.0), *points)
    assert found.method == "merge"
    assert said(*points).method == "sweep_0.6"


def test_noise_is_no_merit():
    """What differs from the best by much noise is not chosen before what is better and cheaper."""
    best = row("best", WIDE, WIDE, 900)
    noisy = row("noisy", shifted(WIDE, 0.05, noise=0.2), WIDE, 300)  # cannot be told from the best
    steady = row("steady", shifted(WIDE, 0.04), WIDE, 100)  # can be, and is better than the noisy one
    found = said(best, noisy, steady)
    assert found.method == "steady"
    assert "better on dev, and with fewer passes, than NOISY, which is within noise" in found.lines[0]
    assert said(best, noisy, row("steady", shifted(WIDE, 0.06), WIDE, 100)).method == "noisy"


def test_what_test_would_have_chosen_is_a_warning():
    merge = row("merge", WIDE, shifted(WIDE, 0.1, noise=0.01), 100, p=0.0)
    grasp = row("grasp", WIDE, WIDE, 300, p=0.3)
    (warned,) = [line for line in doubts(together([merge, grasp])) if line.startswith("on test")]
    assert warned.startswith("on test GRASP is better than MERGE, which dev chose, -0.1000 nats [-0.1")
    for other in (
        shifted(WIDE, 0.005),  # certain, and less than anybody pays for
        shifted(WIDE, 0.1, noise=0.5),  # much, and by chance
    ):
        same = row("merge", WIDE, other, 100, p=0.0)
        assert not [line for line in doubts(together([same, grasp])) if line.startswith("on test")]
    few = [row(name, WIDE, shifted(WIDE[:5], by), 100) for name, by in (("merge", 0.1), ("grasp", 0.0))]
    assert not [line for line in doubts(together(few)) if line.startswith("on test")]


def test_a_second_draw_that_agrees_takes_no_warning_away():
    """-0.1 and -0.2 in two draws: Student's t knows nothing of it, but no draw says otherwise."""
    better = [
        row("grasp", shifted(WIDE, 0.01), shifted(WIDE, -by), 300, p=0.3, draw=draw)
        for draw, by in enumerate((0.1, 0.2))
    ]
    merge = [row("merge", WIDE, WIDE, 100, p=0.0, draw=draw) for draw in (0, 1)]
    results = together([*merge, *better])
    assert verdict(results).method == "merge"
    assert "[-0.4853, +0.7853] over 2 draws" in verdict(results).lines[0]
    assert (
        "on test GRASP is better than MERGE, which dev chose, -0.1500 nats and in each of 2 draws: "
        "more dev rows would have told"
    ) in doubts(results)
    (line,) = [one for one in doubts(together([*merge, better[1]])) if one.startswith("on test")]
    assert "in each of" not in line  # one draw is common to both
    object.__setattr__(better[0], "draw", 2)
    assert not [one for one in doubts(together([merge[0], better[0]])) if one.startswith("on test")]
    object.__setattr__(better[0], "draw", 0)
    object.__setattr__(better[1], "test_losses", shifted(WIDE, 0.01))
    assert not [line for line in doubts(together([*merge, *better])) if line.startswith("on test")]


def test_what_folds_chose_is_compared_on_test():
    merge, folds = row("merge", WIDE, WIDE, 100, p=0.0), row("folds", WIDE, shifted(WIDE, -0.1), 900, p=0.3)
    object.__setattr__(folds, "dev_loss", None)
    results = together([merge, folds])
    assert (
        "On test +0.1000 nats [+0.1000, +0.1000] against the simplest other, FOLDS."
        in said(*results[0].rows, folds).lines[0]
    )
    assert doubts(results) == [
        "on test FOLDS is better than MERGE, which dev chose, -0.1000 nats [-0.1000, -0.1000]: "
        "it was trained on dev, which could not choose it"
    ]
    for about in ("control_of", "refit_of"):  # these are for something else
        object.__setattr__(folds, about, "another")
        assert said(merge, folds).lines[0].endswith("There is nothing to compare it with.")
        assert doubts(together([merge, folds])) == []
        object.__setattr__(folds, about, "")
    object.__setattr__(folds, "test_losses", shifted(WIDE, 0.1))
    assert doubts(together([merge, folds])) == []


def test_other_steps_are_said():
    merge, grasp = row("merge", WIDE, WIDE, 100, p=0.0, steps=100), row("grasp", WIDE, WIDE, 300, steps=100)
    assert said(merge, grasp).lines[0].endswith("the simplest other, GRASP.")
    longer = row("grasp", WIDE, WIDE, 300, p=0.3, steps=150)
    assert said(merge, longer).lines[0].endswith("the simplest other, GRASP. They had 100 and 150 steps.")
    draws = [row("grasp", WIDE, WIDE, 300, p=0.3, steps=steps, draw=i) for i, steps in enumerate((100, 50))]
    both = [row("merge", WIDE, WIDE, 100, p=0.0, steps=100, draw=i) for i in (0, 1)]
    assert said(*both, *draws).lines[0].endswith("GRASP. They had 100 and 50 to 100 steps.")


def test_a_start_that_was_kept_is_said():
    """Whatever its training is called: it changed nothing."""
    moved = row("merge", shifted(WIDE, 0.5), WIDE, 100, p=0.0)
    stayed = [row("grasp", WIDE, WIDE, 300, p=0.3, seed=seed, unmoved=["final/seed1"]) for seed in (1, 2)]
    other = row("grid", WIDE, WIDE, 900, p=0.3, unmoved=["final/seed1"])
    assert doubts(together([moved, *stayed, other])) == [
        "GRASP, GRID: no epoch of final/seed1 was better on dev than its start, which was kept: try another "
        "learning rate, or more rows"
    ]


@pytest.mark.parametrize(
    ("by", "rows", "word"),
    [
        (0.009, 6, "makes no difference that matters"),
        (0.011, 6, "hurt"),
        (0.1, 5, "cannot be told from no pruning with fewer than 6 test rows"),
        (0.0, 6, "cannot be told from no pruning"),
        (0.1, 6, "hurt"),
    ],
)
def test_few_rows_and_little_differences_say_nothing(by, rows, word):
    some = WIDE[:rows]
    merge, grasp = row("merge", some, some, 100, p=0.0), row("grasp", some, shifted(some, by), 300, p=0.3)
    assert said(merge, grasp).lines[1].startswith(f"Pruning {word}: GRASP")
