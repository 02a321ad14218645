"""The map of one ratio for each of two adapters: which pairs, what they are called, what rows cannot tell."""

import csv
import math
from dataclasses import replace
from statistics import fmean

import pytest
from matplotlib.figure import Figure as Canvas
from tests.helpers.run import CONFIG, write_setting

import grasp_lora
from grasp_lora.control.noise import paired_error
from grasp_lora.ratios import PerAdapter
from grasp_lora.reporting.blocks import Bold, Data, Figure, Table, Text
from grasp_lora.reporting.found import Found, together
from grasp_lora.reporting.ratio_map import ratio_map
from grasp_lora.reporting.reading import read_run
from grasp_lora.reporting.sections import adapters
from grasp_lora.reporting.trained import Trained
from grasp_lora.workspace.records import Pruned
from grasp_lora.workspace.rows import Row

FIRST, SECOND = PerAdapter((0.0, 1.0)), PerAdapter((1.0, 0.0))
BASE = [0.5 * i for i in range(10)]
CORNER = {
    "0.0,0.0": "merge",
    "0.0,1.0": "source adapter en alone, trained on",
    "1.0,0.0": "target adapter ar alone, trained on",
}
PARTS = Trained(pruned=Pruned(share_by_unit={"a.lora_A[ar]": 0.1, "b.lora_A[en]": 0.1, "b.lora_A[ar]": 0.2}))


def moved(by):
    return [loss + by for loss in BASE]


def row(method, p, dev, test=BASE, **about):
    own = {"scores": {}, "answers": [], "costs": {}, "source": "en", "target": "ar", **about}
    return Row(method=method, seed=42, dev_loss=fmean(dev), dev_losses=dev, test_losses=test, p=p, **own)


def point(first, second, dev, test=BASE, **about):
    return row(f"sweep_{first}_{second}", PerAdapter((first, second)), dev, test, is_point=True, **about)


def found_of(*rows, **more):
    return Found(together(rows), rows[0].method, **{"trained": {rows[0].method: PARTS}, **more})


def blocks_of(found):
    return {type(block): block for block in adapters.blocks(found)}


def drawn(found):
    """Of each panel by its title."""
    canvas = Canvas()
    blocks_of(found)[Figure].draw(canvas)
    return {axes.get_title(): axes for axes in canvas.axes if axes.get_title()}


def texts_at(axes):
    """Place -> what stands there."""
    found = {}
    for text in axes.texts:
        if text.get_text():
            found.setdefault(text.xy, []).append(text.get_text().replace("\n", " "))
    return found


def ringed(axes):
    """Line -> places."""
    rings = {c.get_label(): c for c in axes.collections if len(c.get_facecolors()) == 0}
    return {
        "tested" if label.startswith("cannot") else "not tested": {tuple(xy) for xy in ring.get_offsets()}
        for label, ring in rings.items()
    }


def test_what_is_no_pair_shows_nothing():
    one_ratio = row("sweep_p0.50", 0.5, BASE, is_point=True)
    three = row("sweep_p0+0+1", PerAdapter((0.0, 0.0, 1.0)), BASE, is_point=True)
    learned = row("grasp", PerAdapter((0.3, 0.4)), BASE)
    merge = row("merge", 0.0, BASE, corner=PerAdapter((0.0, 0.0)))
    assert list(adapters.blocks(found_of(merge, one_ratio, learned))) == []
    assert list(adapters.blocks(found_of(merge, three))) == []
    assert len(ratio_map(found_of(merge, three, point(0.0, 0.5, BASE))).pairs) == 2
    cut = row("prune_after", PerAdapter((0.0, 0.5)), BASE)
    searched = {"prune_after": {PerAdapter((0.0, 0.5)): {"dev_loss": 1.0}}}
    found = found_of(merge, cut, searched=searched, trained={"prune_after": PARTS})
    assert list(adapters.blocks(found)) == []


def test_corners_axes_and_the_diagonal():
    rows = [
        row("merge", 0.0, moved(0.4), moved(0.3), corner=PerAdapter((0.0, 0.0))),
        row("curve", 0.0, moved(-1), moved(-1)),  # cut at 0 from another training
        row("merge_refit", 0.0, moved(-1), moved(-1), refit_of="merge"),
        row("sequential", None, moved(0.1), moved(0.2), corner=FIRST),
        row("target_on", None, moved(9), moved(9), corner=SECOND),
        row("sweep_p0.70", 0.7, moved(0.5), moved(0.6), is_point=True),
        point(1.0, 0.0, moved(0.2), moved(0.1)),
        point(0.25, 0.75, BASE, moved(0.7)),
    ]
    found = found_of(*rows)
    panels = drawn(found)
    assert list(panels) == ["dev", "test, against the best on dev"]
    assert panels["dev"].get_xlabel() == "prune ratio of source adapter en"
    assert panels["dev"].get_ylabel() == "prune ratio of target adapter ar"
    assert texts_at(panels["dev"]) == {
        (0.0, 0.0): ["+0.4000", "merge"],
        (0.0, 1.0): ["+0.1000", "source adapter en alone, trained on"],
        (0.25, 0.75): ["best: 2.2500"],
        (0.7, 0.7): ["+0.5000"],
        (1.0, 0.0): ["+0.2000", "target adapter ar alone, trained on"],
    }
    test = texts_at(panels["test, against the best on dev"])
    assert {p: texts[0] for p, texts in test.items()} == {
        (0.0, 0.0): "-0.4000",
        (0.0, 1.0): "-0.5000",
        (0.25, 0.75): "2.9500",
        (0.7, 0.7): "-0.1000",
        (1.0, 0.0): "-0.6000",
    }
    for axes, expected in zip(
        panels.values(), ([0.4, 0.1, 0.0, 0.5, 0.2], [-0.4, -0.5, 0.0, -0.1, -0.6]), strict=True
    ):
        dots = axes.collections[0]
        assert [tuple(xy) for xy in dots.get_offsets()] == sorted(test)
        assert list(dots.get_array()) == pytest.approx(expected)
    table = blocks_of(found)[Table]
    assert table.headers[:4] == ["pair", "p of en", "p of ar", "trained by"]
    assert [r[:4] for r in table.rows] == [
        ["merge", "0.00", "0.00", "merge"],
        ["source adapter en alone, trained on", "0.00", "1.00", "sequential"],
        ["", "0.25", "0.75", "sweep_0.25_0.75"],
        ["one ratio for both", "0.70", "0.70", "sweep_p0.70"],
        ["target adapter ar alone, trained on", "1.00", "0.00", "sweep_1.0_0.0"],  # not what target_on has
    ]
    assert [isinstance(r[4], Bold) for r in table.rows] == [False, False, True, False, False]
    said = blocks_of(found)[Text].text
    assert "Of 5 pairs of ratios (en, ar) that were trained at, 0.25, 0.75 has the lowest dev loss" in said
    assert "0 of the 4 others cannot be told from it (by 0.01 nats, or by noise of 10 dev rows). " in said
    assert said.endswith("No common ratio that was trained at is among these.")


HALF = [loss + (0.04 if i < 5 else 0.0) for i, loss in enumerate(BASE)]  # 0.02 more, half of the rows 0.04
PASSAGES = ["a"] * 5 + ["b"] * 5


@pytest.mark.parametrize(("groups", "error"), [((), 0.04 / 2 / 3), (PASSAGES, 0.02)])
def test_the_region_is_of_paired_differences_over_groups(groups, error):
    """Ten rows alone: 1.96 * 0.0067 < 0.02. Two passages: 1.96 * 0.02 > 0.02."""
    rows = [
        point(0.0, 0.5, BASE, dev_groups=groups),
        point(0.5, 0.5, HALF, dev_groups=groups),
        point(0.5, 0.0, moved(0.009), dev_groups=groups),
        point(1.0, 0.0, moved(0.011), dev_groups=groups),
    ]
    found = found_of(*rows)
    one = ratio_map(found)
    assert {pair.p: one.apart(pair, "dev").error for pair in one.pairs}[0.5, 0.5] == pytest.approx(error)
    close = {(0.0, 0.5), (0.5, 0.0)} | ({(0.5, 0.5)} if groups else set())
    assert ringed(drawn(found)["dev"]) == {"tested": close}
    cells = {tuple(map(float, r[1:3])): r[-1] for r in blocks_of(found)[Table].rows}
    assert {p for p, cell in cells.items() if cell in ("yes", "best")} == close
    assert cells[1.0, 0.0] == "no"
    said = blocks_of(found)[Text].text
    assert f"{len(close) - 1} of the 3 others cannot be told" in said
    assert said.endswith(
        "as good: 0.50." if groups else "No common ratio that was trained at is among these."
    )


def test_too_few_rows_tell_nothing():
    one = ratio_map(found_of(point(0.0, 0.5, [1.0]), point(0.5, 0.0, [9.0])))
    apart = one.apart(one.pairs[1], "dev")
    assert (apart.mean, apart.error, apart.within) == (8.0, math.inf, True)


def test_points_of_a_grid_are_not_tested():
    grid = {
        PerAdapter((0.0, 0.5)): {"dev_loss": 2.255},
        PerAdapter((0.5, 0.0)): {"dev_loss": 2.3},
        PerAdapter((0.0, 1.0)): {"dev_loss": math.nan},  # it diverged
        0.6: {"dev_loss": 2.26},
    }
    every_step = {0.4: {"dev_loss": 0.0}}
    rows = [
        row("target_on", None, BASE, corner=SECOND),
        row("sequential", None, moved(-1), corner=FIRST),
        row("grid", PerAdapter((0.0, 0.5)), BASE, exhaustive=True),
        row("merge_prune", 0.4, BASE, exhaustive=True),
    ]
    searched = {"grid": grid, "merge_prune": every_step}
    trained = {"grid": PARTS, "merge_prune": Trained(pruned=Pruned(p=0.4))}
    found = found_of(*rows, searched=searched, trained=trained)
    panels = drawn(found)
    assert ringed(panels["dev"]) == {"tested": {(1.0, 0.0)}, "not tested": {(0.0, 0.5), (0.6, 0.6)}}
    assert [tuple(xy) for xy in panels["dev"].collections[0].get_offsets()] == [
        (0.0, 0.5),
        (0.5, 0.0),
        (0.6, 0.6),
        (1.0, 0.0),
    ]
    cells = {tuple(r[1:4]): r[-1] for r in blocks_of(found)[Table].rows}
    assert cells == {
        ("0.00", "0.50", "grid"): "yes (not tested)",
        ("0.00", "1.00", "grid"): "no (not tested)",
        ("0.50", "0.00", "grid"): "no (not tested)",
        ("0.60", "0.60", "grid"): "yes (not tested)",
        ("1.00", "0.00", "target_on"): "best",
    }
    said = blocks_of(found)[Text].text
    assert "target adapter ar alone, trained on. 2 of the 3 others" in said
    assert "3 of the others are held against the margin alone" in said
    assert said.endswith("one ratio for both adapters is as good: 0.60.")


def test_adapters_without_names_and_of_two_sources():
    rows = [point(0.0, 1.0, BASE), point(0.5, 0.0, moved(1))]
    one = ratio_map(found_of(*rows, trained={}))
    assert (one.adapters, one.corner(one.best.p)) == (
        ("first", "second"),
        "first adapter alone, trained on",
    )
    two = ratio_map(found_of(*(point(*r.p, r.dev_losses, source="en+ar", target="fr") for r in rows)))
    assert two.corner(two.best.p) == "adapter en alone, trained on"


def test_without_dev_rows_test_rows_choose():
    rows = [point(0.0, 1.0, BASE, moved(1)), point(0.5, 0.0, BASE)]
    found = found_of(*(replace(one, dev_loss=None) for one in rows))
    assert ratio_map(found).best.p == (0.5, 0.0)
    assert list(drawn(found)) == ["test"]
    assert "has the lowest test loss" in blocks_of(found)[Text].text
    assert {line[0] for line in blocks_of(found)[Data].rows} == {"test"}


def test_a_whole_run(tmp_path, monkeypatch):
    monkeypatch.chdir(write_setting(tmp_path, CONFIG))
    given = {
        "methods": ["merge", "sequential", "target_on", "sweep"],
        "seeds": [42],
        "variants": {},
        "combine": {},
        "sweep": {"ratios": [[0, 1], [1, 0], [0.5, 0.5], [0, 0.5]]},
        "evaluation": {"generate": 1, "metrics": ["em"], "deployment": False},
    }
    run = grasp_lora.run("run.yaml", **given).folder
    with (run / "report/map.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert (run / "report/map.png").exists()
    assert {f"{x['p_en']},{x['p_ar']}": x["corner"] for x in lines if x["corner"]} == CORNER
    assert all(x["trained_by"] == f"sweep_p{float(x['p_en']):.2f}+{float(x['p_ar']):.2f}"
               for x in lines if x["corner"] != "merge")  # fmt: skip
    rows = [Row.read(place) for place in run.glob("eval/sweep_p*/seed42")]
    scored = {tuple(one.p): one for one in rows} | {(0.0, 0.0): Row.read(run / "eval/merge/seed42")}
    assert len(scored) == 5
    best = min(scored, key=lambda p: scored[p].dev_loss)
    for x in (x for x in lines if x["rows"] == "dev"):
        own, least = scored[float(x["p_en"]), float(x["p_ar"])], scored[best]
        difference = fmean(own.dev_losses) - fmean(least.dev_losses)
        noise = 1.96 * (paired_error(own.dev_losses, least.dev_losses) or 0.0)
        assert float(x["difference_from_best"]) == pytest.approx(difference)
        assert x["within_noise_of_best"] == str(abs(difference) <= max(0.01, noise))
    # Which of the axes is whose: without the target's adapter it is the source's, trained on.
    loss = {(x["p_en"], x["p_ar"]): float(x["loss"]) for x in lines if x["rows"] == "test"}
    for method, corner in (("sequential", ("0.0", "1.0")), ("target_on", ("1.0", "0.0"))):
        assert loss[corner] == pytest.approx(Row.read(run / f"eval/{method}/seed42").test_loss, abs=1e-5)
    assert abs(loss["0.0", "1.0"] - loss["1.0", "0.0"]) > 1e-3
    again = ratio_map(read_run(run))  # of the folder alone
    assert [[str(v) for v in line] for line in adapters._data(again)] == [list(x.values()) for x in lines]
    summary = (run / "report/summary.md").read_text()
    assert f"that were trained at, {PerAdapter(best):.2f} has the lowest dev loss" in summary
    assert "One ratio for each adapter" in (run / "report/report.html").read_text()
