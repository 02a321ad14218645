"""What sections and tables of several runs say, on made-up rows, by hand."""

import json
import re
from dataclasses import replace
from statistics import fmean

import pytest
from tests.helpers.rows import made_up_run

from grasp_lora import GraspError
from grasp_lora.control.noise import paired_error
from grasp_lora.reporting import drawing
from grasp_lora.reporting.across import across, over_runs
from grasp_lora.reporting.blocks import Bold, Figure, Table
from grasp_lora.reporting.drawing import save
from grasp_lora.reporting.found import Found, together
from grasp_lora.reporting.report import report
from grasp_lora.reporting.sections import answers as answers_section
from grasp_lora.reporting.sections import losses, metrics, ratios, tests
from grasp_lora.workspace.rows import Answer, Row


def evaluated(method, test, dev, **about):
    costs = {f"{method}/seed42": {"seconds": 1.0, "forward_examples": 9, "backward_examples": 0}}
    losses = {"dev_loss": fmean(dev), "dev_losses": dev, "test_losses": test}
    own = {"title": method.upper(), "costs": costs, "all_costs": costs, "scores": {}, "answers": []} | about
    return Row(method=method, seed=42, **losses, **own)


def found_of(*rows, **more):
    return Found(together(rows), rows[0].method, **more)


BASE = [0.5 * i for i in range(10)]


def moved(by):
    """So much more on every row, give or take: certain with ten rows."""
    return [loss + by + 0.001 * (-1) ** i for i, loss in enumerate(BASE)]


def test_differences_over_runs_by_hand():
    """+0.1, +0.3: mean 0.2, standard error 0.1; both surely worse; a refit's is of another difference."""
    runs = [
        found_of(
            evaluated("grasp", BASE, BASE),
            evaluated("merge", moved(by), BASE),
            evaluated("merge_refit", moved(-1), BASE, refit_of="merge"),
            evaluated("better", moved(-0.2), BASE),
            evaluated("same", [*BASE[:-1], BASE[-1] + 0.01], BASE),
            name=name,
        )
        for name, by in (("a", 0.1), ("b", 0.3))
    ]
    tables = {block.name: block for block in across(runs) if isinstance(block, Table)}
    rows = {row[0]: row[1:] for row in tables["differences_from_grasp"].rows}
    assert rows["MERGE"] == ["2", "+0.2000 ± 0.1000", "+0.1000 to +0.3000", "0", "2"]
    assert rows["BETTER"] == ["2", "-0.2000 ± 0.0000", "-0.2000 to -0.2000", "2", "0"]
    assert rows["SAME"][-2:] == ["0", "0"]
    assert "MERGE_REFIT" not in rows
    main = {row[0]: row[1] for row in tables["main_test_loss"].rows}
    assert [isinstance(main[name], Bold) for name in ("MERGE_REFIT", "BETTER", "GRASP")] == [
        True,
        False,
        False,
    ]


def test_losses_over_rows_are_means_of_runs_with_as_many():
    results = [found_of(evaluated("merge", [loss] * 3, BASE)).results[0] for loss in (1.0, 2.0)]
    assert over_runs(results) == (1.5, pytest.approx(0.5**0.5))
    assert over_runs(results[:1]) == (1.0, 0.0)


def test_the_best_of_each_column_is_bold():
    scores = [
        {m: {"name": m, "value": v, "signature": "s", "examples": [v] * 2} for m, v in one.items()}
        for one in ({"rougeL": 20.0, "chrf": 9.0}, {"rougeL": 10.0, "chrf": 12.0}, {"rougeL": 5.0})
    ]
    answers = [Answer("a", "h", "x", ("y",)), Answer("b", "h", "x", ("y",))]
    rows = [evaluated(n, BASE, BASE, scores=s, answers=answers) for n, s in zip("abc", scores, strict=True)]
    (table,) = [block for block in metrics.blocks(found_of(*rows)) if isinstance(block, Table)]
    assert table.headers == ["method", "rougeL", "chrf"]
    assert [[isinstance(cell, Bold) for cell in row[1:]] for row in table.rows] == [
        [True, False],
        [False, True],
        [False, False],
    ]
    assert table.rows[2][2] == ""  # it was not scored with this one


def test_losses_in_bold_are_the_lowest_and_dev_is_of_those_that_have_it():
    rows = [
        evaluated("a", moved(0.2), BASE),
        evaluated("b", BASE, moved(0.2)),
        replace(evaluated("b_refit", moved(0.1), [0.0], refit_of="b"), dev_loss=None, dev_losses=[]),
    ]
    (table,) = [block for block in losses.blocks(found_of(*rows)) if isinstance(block, Table)]
    column = {
        name: [isinstance(row[table.headers.index(name)], Bold) for row in table.rows]
        for name in ("dev", "test")
    }
    assert column == {"dev": [True, False, False], "test": [False, True, False]}


def test_further_test_sets_of_an_unfinished_run():
    rows = [evaluated("merge", BASE, BASE), evaluated("other", moved(0.1), BASE)]
    found = found_of(evaluated("grasp", BASE, BASE), *rows, tests={"dialect": together(rows)})
    (table,) = tests.blocks(found)
    assert "* differs from MERGE" in table.title
    assert [row[0] for row in table.rows] == ["MERGE", "OTHER"]


def test_a_control_is_no_point_of_the_curve_over_ratios():
    rows = [
        evaluated("merge_random", moved(1), BASE, p=0.0, control_of="merge"),
        evaluated("merge", BASE, BASE, p=0.0),
        evaluated("p40", moved(0.1), BASE, p=0.4, is_point=True),
    ]
    swept = [one for one in together(rows) if ratios._is_fixed(one)]
    assert [one.method for one in swept] == ["merge", "p40"]
    (_, first), (p, second) = [(p, d) for p, d, _ in ratios._differences(swept, "test")]
    assert (first, p, second) == (0.0, 0.4, pytest.approx(0.1))
    assert ratios._differences(swept, "test")[1][2] == pytest.approx(1.96 * paired_error(moved(0.1), BASE))
    assert ratios._minus((0.2, 0.1, 0.3)) == (-0.2, pytest.approx(0.1))


def test_examples_are_chosen_by_their_differences():
    def answered(*texts):
        return [Answer(str(i), "h", text, ("right",)) for i, text in enumerate(texts)]

    grasp = evaluated("grasp", [1.0, 5.0, 1.0], BASE, p=0.3, answers=answered("a", "b", "same"))
    merge = evaluated("merge", [2.0, 2.0, 9.0], BASE, p=0.0, answers=answered("x", "y", "same"))
    shown = [block.why for block in answers_section.blocks(found_of(grasp, merge))]
    assert shown == [
        "Test example 1: GRASP is better than MERGE, by 1.00 in test loss.",
        "Test example 2: GRASP is worse than MERGE, by 3.00 in test loss.",
    ]


def test_methods_of_one_title_are_all_shown():
    rows = [
        evaluated(name, BASE, BASE, title="same", answers=[Answer("a", "h", name, ("r",))]) for name in "abc"
    ]
    (one,) = answers_section.blocks(found_of(*rows))
    assert one.answers == [("same", "a"), ("same", "b"), ("same", "c")]


def test_a_figure_on_its_own_is_on_white_and_in_a_page_in_its_ink(tmp_path):
    def draw(canvas):
        canvas.subplots().set_title("costs $5 and $6 <b>")

    inline = save(Figure("a b/c", draw, ""), tmp_path)
    alone = (tmp_path / "a-b-c.svg").read_text(encoding="utf-8")
    assert '<rect width="100%" height="100%" fill="#ffffff"/>' in alone
    assert "currentColor" not in alone
    assert "currentColor" in inline
    assert "#1f2329" not in inline
    assert "costs $5 and $6 &lt;b&gt;" in inline


def test_a_cost_may_leave_numbers_out(tmp_path):
    run = made_up_run(tmp_path / "run")
    path = run / "eval/merge/seed42/cost.json"
    path.write_text(json.dumps({"stages": {"merge/seed42": {"forward_examples": 7}}}))
    report([run], tmp_path / "report")
    assert re.search(r"MERGE +\| +0 \| +7 \| +0 \|", (tmp_path / "report/summary.md").read_text())


def test_a_loss_that_is_no_number_is_named(tmp_path):
    run = made_up_run(tmp_path / "run")
    path = run / "eval/merge/seed42/scores.json"
    path.write_text(re.sub(r'"test_losses": \[\s*[\d.]+', '"test_losses": [NaN', path.read_text()))
    with pytest.raises(GraspError, match="eval/merge/seed42 has a loss that is not a finite number"):
        report([run], tmp_path / "report")


SCRIPTS = "العربية 中文 日本語 हिन्दी ภาษาไทย"


def drawn(tmp_path, caplog, families, monkeypatch):
    drawing._say_once.cache_clear()
    monkeypatch.setattr(drawing, "_families", lambda: families)
    save(Figure("scripts", lambda canvas: canvas.subplots().set_title(SCRIPTS), ""), tmp_path)
    return [record.getMessage() for record in caplog.records]


def test_scripts_without_a_font_are_said(tmp_path, caplog, monkeypatch):
    (said,) = drawn(tmp_path, caplog, ("DejaVu Sans",), monkeypatch)
    assert "no installed font has" in said
    assert "fonts-noto-core, fonts-noto-cjk" in said
    assert SCRIPTS in (tmp_path / "scripts.svg").read_text(encoding="utf-8")  # the viewer's fonts have them


def test_scripts_with_fonts_are_drawn(tmp_path, caplog, monkeypatch):
    families = drawing._families()
    if not set(drawing._FAMILIES) <= set(families):
        pytest.skip("needs Noto Sans for Arabic, Chinese, Japanese, Devanagari and Thai")
    assert drawn(tmp_path, caplog, families, monkeypatch) == []
