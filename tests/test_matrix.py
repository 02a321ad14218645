"""The summary of the published experiment, from rows made up by hand."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from grasp_lora.workspace.rows import Row

SPEC = importlib.util.spec_from_file_location("matrix", Path(__file__).parents[1] / "benchmarks/matrix.py")
matrix = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(matrix)


def line(method, losses, *, p=0.0, passes=0):
    return {
        "method": method,
        "draw": 0,
        "p": p,
        "choosing_passes": passes,
        "test_losses": losses,
        "groups": [],
    }


def test_regret_is_against_the_ratio_that_the_other_half_likes():
    """Rows 0 to 3; each half likes the ratio that is better by 1 there, and it is worse by 2 on the other."""
    even, odd = [0.0, 2.0, 0.0, 2.0], [1.0, 0.0, 1.0, 0.0]
    groups = ["a", "b", "a", "b"]  # two clusters, so that the halves are the even and the odd rows
    assert matrix.regret([1.0] * 4, [even, odd], groups) == pytest.approx((1.0 - 2.0 + 1.0 - 1.0) / 2)
    assert matrix.regret(even, [even], groups) == 0.0


def test_the_summary_by_hand():
    zero, half = [1.0] * 20, [1.5] * 20
    cell = {
        "sweep_p0.00": line("sweep_p0.00", zero),
        "sweep_p0.50": line("sweep_p0.50", half, p=0.5),
        "grasp": line("grasp", half, p=0.5, passes=640),
        "grid": line("grid", zero, passes=300),
        "sweep_p0.00_refit": line("sweep_p0.00_refit", [0.0] * 20),  # not one of the ratios
    }
    cells = [line.split("|")[1:-1] for line in matrix.summary({("a", 0): cell}).splitlines()]
    rows = {name.strip(): [value.strip() for value in values] for name, *values in cells}
    assert rows["grasp"] == ["1, 1", "0.50 to 0.50", "+0.5000", "+0.5000", "640", "1, 0", "0 of 1"]
    assert rows["grid"] == ["1, 1", "0.00 to 0.00", "+0.0000", "+0.0000", "300", "0, 0", "1 of 1"]
    assert rows["(any of the ratios)"][:4] == ["1, 1", "", "+0.2500", "+0.2500"]
    assert "grasp" not in matrix.summary({("a", 0): {"grasp": cell["grasp"]}})
    other = {**cell, "grasp": line("grasp", zero, passes=640)}
    draws = matrix.summary({("a", 0): cell, ("a", 1): other})
    assert re.search(r"grasp +\| +1, 2 \| 0.00 to 0.50 \| +\+0.2500 \|", draws)  # one run: no error is known
    runs = matrix.summary({("a", 0): cell, ("b", 0): other})
    assert "+0.2500 ± 0.2500" in runs  # 0.5 and 0.0: deviation 0.3536, over the root of 2


def test_the_methods_by_hand():
    def row(method, losses, title):
        return {
            **line(method, losses),
            "title": title,
            "steps": 5,
            "choosing_steps": 2,
            "labels": {"train": 3},
        }

    zero, worse = [1.0] * 20, [1.25] * 20
    first = {
        "sweep_p0.00": row("sweep_p0.00", zero, "p = 0.00"),
        "merge": row("merge", zero, "merged"),
        "sequential": row("sequential", worse, "trained on"),
        "sequential_on": row("sequential_on", zero, "trained on"),
        "lora_target_refit": row("lora_target_refit", zero, "target; all rows"),
    }
    better = [loss - 0.5 for loss in zero]
    unmade = {"sequential": row("sequential", zero, "trained on")}  # p = 0 is not made yet
    second = {"sweep_p0.00": first["sweep_p0.00"], "sequential": row("sequential", better, "trained on")}
    table = matrix.trainings(
        {("matrix-a", 0): first, ("matrix-a", 1): first, ("matrix-b", 0): second, ("matrix-b", 1): unmade}
    )
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert head[-2:] == ["a", "b"]
    assert [cells[0] for cells in rows] == [
        "trained on",
        "trained on (sequential_on)",
        "merged",
        "target; all rows",
    ]
    mean = "-0.1250 ± 0.3750"  # of +0.25 in two draws of a and -0.5 in one of b
    assert rows[0] == ["trained on", "5 + 2", "3", mean, "2, 3", "2, 1", "+0.250", "-0.500"]
    assert rows[1][4:] == ["1, 2", "0, 0", "+0.000", ""]


@pytest.mark.parametrize(
    ("run", "varied"),
    [("matrix-ar", False), ("matrix-xquad-zh", False), ("matrix-ar-16", True), ("matrix-ar-tuned", True)],
)
def test_runs_with_other_rows_or_rates_are_apart(run, varied):
    assert bool(matrix.VARIED.fullmatch(run)) == varied


def test_the_command_prints_each_draw_only_if_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(matrix, "ROWS", tmp_path)
    known = {
        "steps": 5,
        "choosing_steps": 2,
        "labels": {"train": 3},
        "source_losses": {"en": 1.0},
        "dev_loss": 1.0,
    }
    for name, loss in (("matrix-ar", 1.0), ("matrix-ar-16", 9.0)):
        rows = [line("sweep_p0.00", [1.0] * 20), line("grasp_each", [loss] * 20)]
        text = "".join(json.dumps({**row, "title": "GRASP", **known}) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    monkeypatch.setattr("sys.argv", ["matrix.py"])
    matrix.main()
    brief = capsys.readouterr().out
    assert "matrix-ar" not in brief
    assert "GRASP (grasp_each)" in brief
    assert "+8.0000" not in brief  # of 16 rows
    monkeypatch.setattr("sys.argv", ["matrix.py", "--each"])
    matrix.main()
    each = capsys.readouterr().out
    assert each.endswith(brief)
    assert "matrix-ar, draw 0" in each
    assert "+8.0000" in each


def test_rows_are_kept_as_json_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "ROWS", tmp_path / "rows")
    run = tmp_path / "runs/matrix-x"
    for place, draw in (("", 0), ("draws/1/", 1)):
        folder = run / f"{place}eval/grasp/seed42"
        folder.mkdir(parents=True)
        Row("grasp", 42, 2.0, [1.00004, 2.0], {}, [], {}, p=0.3, draw=draw).write(folder)
    (run / "eval/grasp/seed42.replaced-1").mkdir()
    matrix.export(run)
    found = matrix.read(tmp_path / "rows")
    assert set(found) == {("matrix-x", 0), ("matrix-x", 1)}
    assert found["matrix-x", 1]["grasp"]["test_losses"] == [1.0, 2.0]
    text = (tmp_path / "rows/matrix-x.jsonl").read_text().splitlines()[0]
    assert json.loads(text)["passes"] is None
    matrix.export(run, {"grasp": "other"})  # what is there already stays
    assert list(matrix.read(tmp_path / "rows")["matrix-x", 0]) == ["grasp", "other"]
    matrix.export(run, {"merge": "merge"})
    assert list(matrix.read(tmp_path / "rows")["matrix-x", 0]) == ["grasp", "other"]


def test_a_refit_has_no_dev_loss():
    zero = {**line("sweep_p0.00", [1.0]), "title": "p = 0.00", "dev_loss": 2.0}
    again = {**line("merge_refit", [0.5]), "title": "again", "dev_loss": None}
    known = {"steps": 3, "choosing_steps": 0, "labels": {"train": 5}, "source_losses": {"en": 4.0}}
    table = matrix.methods_of({row["method"]: {**row, **known} for row in (zero, again)})
    (found,) = [row for row in table.splitlines() if "again" in row]
    cells = [cell.strip() for cell in found.split("|")[1:-1]]
    assert cells == ["again", "0.000", "3", "0", "5", "4.0000", "", "0.5000", "-0.5000"]
