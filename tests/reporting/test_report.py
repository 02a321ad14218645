"""Reports of made-up runs: what is in them, what data must not do to them, how large they may be."""

import base64
import csv
import hashlib
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from statistics import fmean, pstdev

import pytest
from tests.helpers.rows import METHODS, made_up_run

from grasp_lora import GraspError
from grasp_lora.cli.main import main
from grasp_lora.control.rounds import Probe, Round
from grasp_lora.reporting.blocks import Bold, Table, without_controls
from grasp_lora.reporting.drawing import save
from grasp_lora.reporting.page import _marked
from grasp_lora.reporting.reading import read_run
from grasp_lora.reporting.report import report
from grasp_lora.reporting.sections import ablations, searched
from grasp_lora.reporting.sections.learned import rolling
from grasp_lora.reporting.sections.published import published
from grasp_lora.reporting.trained import by_site
from grasp_lora.reporting.write import _csv, latex, markdown, write_report

HOSTILE = "<script>alert(1)</script> \x1b[31mred\x07 \\input{/etc/passwd} 50% & $x$ | =1+1"


class Page(HTMLParser):
    """Tags with their attributes, and texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self._in = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, text):
        (self.scripts if self._in == "script" else self.texts).append(text)


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = made_up_run(tmp_path_factory.mktemp("runs") / "titles")
    return report([run], run.parent / "report").parent


def test_a_report_is_one_page_and_its_parts_as_files(made):
    page = page_of(made / "report.html")
    assert {"Verdict", "Losses", "Quality and cost", "Costs", "Answers"} <= set(page.texts)
    assert "titles: titles, en → ar" in page.texts
    assert sum(tag == "svg" for tag, _ in page.tags) == len(list(made.glob("*.svg")))
    assert {p.stem for p in made.glob("*.svg")} == {p.stem for p in made.glob("*.png")}
    for name in ("losses", "costs"):
        assert {p.suffix for p in (made / "tables").glob(f"{name}.*")} == {".csv", ".md", ".tex"}
    losses = list(csv.DictReader((made / "tables" / "losses.csv").open(encoding="utf-8")))
    assert not {"rate", "threshold"} & losses[0].keys()  # nothing was searched but ratios
    assert [row["method"] for row in losses] == ["LORA_TARGET", "MERGE", "GRASP"]


def test_the_page_asks_nothing_of_a_network(made):
    text = (made / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    asked = [a.get(k, "") for tag, a in page.tags for k in ("src", "href", "xlink:href") if a.get(k)]
    assert all(one.startswith(("#", "data:")) for one in asked), asked
    assert not re.search(r"@import|url\((?!#)", text)
    (policy,) = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    )


def test_ids_are_used_once(made):
    ids = [a["id"] for _, a in page_of(made / "report.html").tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_what_data_says_stays_text(tmp_path):
    run = made_up_run(tmp_path / "run", answer=HOSTILE, title=f"=HYPERLINK() {HOSTILE}", task=HOSTILE)
    made = report([run], tmp_path / "report").parent
    page = page_of(made / "report.html")
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    assert any("<script>alert(1)</script>" in text for text in page.texts)
    for path in made.rglob("*"):
        if path.suffix in (".md", ".html", ".tex"):
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", path.read_text(encoding="utf-8")), path
    with (made / "tables" / "losses.csv").open(encoding="utf-8", newline="") as file:
        assert all(not row[0].startswith("=") for row in csv.reader(file))
    assert "\\input" not in (made / "tables" / "losses.tex").read_text()
    for path in made.glob("*.svg"):
        assert "<script" not in path.read_text(encoding="utf-8")
    rows = (made / "tables" / "losses.md").read_text(encoding="utf-8").splitlines()[2:]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_a_table_for_latex():
    table = Table("Loss (a_b):", ["method", "p"], [["50 % & more", Bold("−1 ± 2")]], "x")
    assert latex(table).splitlines()[2:8] == [
        "\\caption{Loss (a\\_b)}",
        "\\begin{tabular}{lr}",
        "\\toprule",
        "method & p \\\\",
        "\\midrule",
        "50 \\% \\& more & \\textbf{$-$1 $\\pm$ 2} \\\\",
    ]


def test_bold_cells_in_markdown_keep_their_columns():
    assert markdown(["a", "b"], [["x", Bold("1")], ["y", "10"]]).splitlines() == [
        "| a |     b |",
        "|---|------:|",
        "| x | **1** |",
        "| y |    10 |",
    ]


@pytest.mark.parametrize(
    ("answer", "reference", "marked"),
    [
        ("the red house", "the blue house", "the <mark>red </mark>house"),
        ("البيت الكبير", "البيت الصغير", "البيت <mark>الكبير</mark>"),
        ("東京の塔", "東京の駅", "東京の<mark>塔</mark>"),
        ("a < b", "a", "a<mark> &lt; b</mark>"),
        ("same", "same", "same"),
    ],
)
def test_what_the_reference_has_not_is_marked(answer, reference, marked):
    found = str(_marked(answer, reference))
    assert found.replace("<mark> ", " <mark>").replace(" </mark>", "</mark> ") == marked.replace(
        "<mark> ", " <mark>"
    ).replace(" </mark>", "</mark> ")


def test_controls_go_and_what_scripts_need_stays():
    assert without_controls("a\x1b[0m\u202eb\r\nक्\u200dष\tc") == "a[0mb\nक्\u200dष\tc"


def test_the_best_is_bold_and_the_first_of_equals(made):
    rows = list(csv.DictReader((made / "tables" / "losses.csv").open(encoding="utf-8")))
    text = (made / "tables" / "losses.md").read_text(encoding="utf-8")
    best = min(float(row["test"]) for row in rows)
    assert f"**{best:.4f}**" in text
    assert text.count("**") == 4  # of dev, and of test


def test_an_unfinished_run_says_what_is_missing(tmp_path, capsys):
    run = made_up_run(tmp_path / "run", asked=["grid", "sweep"])
    assert main(["report", str(run), "--to", str(tmp_path / "report")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/report/report.html\n"
    text = (tmp_path / "report" / "summary.md").read_text(encoding="utf-8")
    assert "not there yet are grid, sweep." in text
    assert read_run(run).missing == ("grid", "sweep")


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "is no run's folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "has no evaluation" in capsys.readouterr().err


def test_runs_together(tmp_path):
    names = ("few", "more", "most")
    runs = [made_up_run(tmp_path / name, seed=i, labels={"train": 10 * 4**i}) for i, name in enumerate(names)]
    made = report(runs, tmp_path / "report").parent
    rows = list(csv.DictReader((made / "tables" / "main_test_loss.csv").open(encoding="utf-8")))
    assert [*rows[0]] == ["method", *names]
    found = [read_run(run) for run in runs]
    (merge,) = [row for row in rows if row["method"] == "MERGE"]
    for name, one in zip(names, found, strict=True):
        loss = next(r for r in one.results if r.method == "merge").spread("test_loss").mean
        assert merge[name].rstrip("*") == f"{loss:.4f}"
    differences = made / "tables" / "differences_from_lora_target.csv"
    with differences.open(encoding="utf-8") as file:
        (difference,) = [row for row in csv.DictReader(file) if row["method"] == "MERGE"]
    by_run = [
        one.results[1].spread("test_loss").mean - one.compared.spread("test_loss").mean for one in found
    ]
    assert difference["test − LORA_TARGET"].split(" ± ")[0] == f"{fmean(by_run):+.4f}"
    assert (made / "training_rows_1.svg").exists()
    assert len(list(csv.reader((made / "runs.csv").open(encoding="utf-8")))) == 1 + 3 * 3 * 2
    page = page_of(made / "report.html")
    assert sum(tag == "details" for tag, _ in page.tags) == 3
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [made_up_run(tmp_path / place / "titles", seed=i) for i, place in enumerate(("a", "b"))]
    made = report([*runs, runs[0]], tmp_path / "report").parent
    folders = sorted(path.name for path in (made / "runs").iterdir())
    assert len(folders) == 2
    assert all(folder.endswith(f"{place}-titles") for folder, place in zip(folders, "ab", strict=True))


@pytest.mark.slow
def test_two_hundred_runs_are_quick_and_small(tmp_path):
    runs = [made_up_run(tmp_path / f"run{i}", seed=i, rows=100) for i in range(200)]
    start = time.process_time()  # of the processor: what else runs beside does not count
    page = report(runs, tmp_path / "report")
    assert time.process_time() - start < 30
    assert page.stat().st_size < 10e6
    assert page.read_text(encoding="utf-8").count("<details>") == 200


def test_a_rolling_mean_by_hand():
    values = [float(i) for i in range(12)]
    rounds, mean, deviation = rolling(values)
    assert rounds == list(range(1, 13))
    assert (mean[0], deviation[0]) == (0.0, 0.0)
    assert (mean[4], deviation[4]) == (2.0, pytest.approx(pstdev(range(5))))
    assert (mean[11], deviation[11]) == (6.5, pytest.approx(pstdev(range(2, 12))))


def test_units_by_layer_and_projection():
    units = {
        "model.layers.3.self_attn.q_proj.lora_A[en]": 0.5,
        "model.layers.11.mlp.up_proj[ar]": 0.25,
        "lm_head.lora_B[en]": 1.0,
    }
    assert list(by_site(units)) == [(3, "q_proj", "A", "en", 0.5), (11, "up_proj", "", "ar", 0.25)]


def test_the_papers_numbers_are_theirs():
    """Sums of columns of GRASP Table 2, worked by hand from the paper."""
    by_cell = {(one["task"], one["target"]): one["methods"] for one in published()}
    plain = ("zero_shot", "lora_target", "ties", "lorahub", "merge")
    for (task, target, metric), total in {
        ("xlsum", "ar", "bertscore_f1"): 361.08,
        ("xlsum", "zh", "rougeL"): 123.62,
        ("mlqa", "ar", "em"): 96.0,
        ("mlqa", "zh", "f1"): 165.36,
    }.items():
        values = [by_cell[task, target][method][metric] for method in plain]
        assert sum(values) == pytest.approx(total)
    assert by_cell["mlqa", "zh"]["grasp"]["em"] == "48.00 ± 0.58"


def test_published_numbers_stand_beside_ours(tmp_path):
    scores = {"rougeL": {"name": "rougeL", "value": 20.5, "signature": "s", "examples": [20.5] * 6}}
    run = made_up_run(tmp_path / "run", task="xlsum", scores=scores)
    made = report([run], tmp_path / "report").parent
    rows = list(csv.reader((made / "tables" / "published.csv").open(encoding="utf-8")))
    assert ["GRASP", "rougeL", "20.50", "22.32 ± 0.31"] in rows
    assert ["GRASP", "p", "40.00", "67.49"] in rows


def test_a_learning_run_is_drawn(tmp_path):
    run = made_up_run(tmp_path / "run")
    learning = run / "grasp" / "seed42"
    learning.mkdir(parents=True)
    rounds = [
        Round(i, 10 * i, 0.4, 0.4, 0.1, -2.0, tuple(Probe(p, p, r) for p, r in probes), True, 0.4, 0.4, 0.1)
        for i, probes in enumerate([((0.3, 0.01), (0.5, -0.02)), ((0.35, 0.0), (0.6, -0.1))], 1)
    ]
    (learning / "rounds.jsonl").write_text("".join(one.to_json() + "\n" for one in rounds))
    (learning / "ratio.json").write_text('{"p": 0.4}')
    found = read_run(run)
    assert [one.p for one in found.learned["grasp"]] == [0.4]
    assert found.learned["grasp"][0].rounds == tuple(rounds)
    (tmp_path / "report").mkdir()
    write_report(tmp_path / "report", found)
    assert {"trajectory.svg", "trajectories.svg", "landscape.svg"} <= {
        path.name for path in (tmp_path / "report").iterdir()
    }


def test_a_run_without_config_is_read(tmp_path):
    run = made_up_run(tmp_path / "run")
    (run / "config.yaml").unlink()
    found = read_run(run)
    assert {one.method for one in found.results} == set(METHODS)
    assert found.missing == ("the rest of its stages: it has not ended",)


def test_a_damaged_evaluation_is_named(tmp_path):
    run = made_up_run(tmp_path / "run")
    (run / "eval/merge/seed42/scores.json").write_text("{")
    with pytest.raises(GraspError, match="eval/merge/seed42 holds no evaluation"):
        report([run], tmp_path / "report")


def test_what_other_settings_do(tmp_path):
    methods = {"merge": (0.0, 200), "wide": (0.6, 500), "grasp": (0.4, 600)}
    run = made_up_run(tmp_path / "run", methods=methods)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"{config}variants: {{wide: {{tau: 0.05}}, later: {{beta: 0}}}}\n")
    found = replace(read_run(run), reference="grasp")
    assert found.missing == ("later",)
    (table,) = ablations.blocks(found)
    assert table.headers[:3] == ["variant", "tau", "p*"]
    assert [row[:3] for row in table.rows] == [["GRASP", "", "0.400"], ["WIDE", "0.05", "0.600"]]


def test_dev_scores_over_the_grid_are_drawn(tmp_path):
    found = replace(
        read_run(made_up_run(tmp_path / "run")),
        searched={"grasp": {0.2: {"dev_loss": 2.0, "rougeL": 10.0}, 0.4: {"dev_loss": 2.1, "rougeL": 12.0}}},
    )
    data, figure = searched.blocks(found)
    assert list(data.rows)[1] == ("grasp", 0.2, "rougeL", 10.0)
    svg = save(figure, tmp_path)
    assert "rougeL" in svg
    assert (tmp_path / "scores_over_p.png").read_bytes().startswith(b"\x89PNG")


def test_runs_that_cannot_be_shown_are_named_on_the_page(tmp_path, capsys):
    good = made_up_run(tmp_path / "good")
    damaged = made_up_run(tmp_path / "damaged")
    (damaged / "eval/merge/seed42/scores.json").write_text("{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    runs = [str(path) for path in sorted(tmp_path.iterdir())]
    assert main(["report", *runs, "--to", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for name in ("damaged", "empty", "notes.txt"):
        assert f">{name}: " in text
    assert "good: titles, en → ar" in text
    assert main(["report", *runs[:1], str(tmp_path / "empty"), "--to", str(tmp_path / "none")]) == 2
    assert "no run can be shown" in capsys.readouterr().err
    assert good.exists()


def test_only_an_earlier_report_is_written_over(tmp_path, capsys):
    run = made_up_run(tmp_path / "run")
    to = tmp_path / "mine"
    to.mkdir()
    (to / "report.html").write_text("<p>mine")
    for place in (to, run, run / "config.yaml"):
        assert main(["report", str(run), "--to", str(place)]) == 2
        assert "is no report of ours" in capsys.readouterr().err
    assert (to / "report.html").read_text() == "<p>mine"
    assert main(["report", str(run), "--to", str(tmp_path / "new")]) == 0
    assert main(["report", str(run), "--to", str(tmp_path / "new")]) == 0


def test_answers_that_are_alike_are_not_chosen(tmp_path):
    """All six are; so only the first ones are shown."""
    made = report([made_up_run(tmp_path / "run")], tmp_path / "report").parent
    page = page_of(made / "report.html")
    assert [text for text in page.texts if text.startswith("Test example")] == [
        "Test example 1.",
        "Test example 2.",
    ]


@pytest.mark.parametrize(
    ("cell", "kept"),
    [
        ("=1", "'=1"),
        ("+a", "'+a"),
        ("-a", "'-a"),
        ("@a", "'@a"),
        ("-0.5*", "-0.5*"),
        ("+1.0 ± 0.2", "+1.0 ± 0.2"),
    ],
)
def test_what_a_spreadsheet_would_compute(cell, kept):
    assert _csv(["=h"], [[cell]]) == f"'=h\n{kept}\n"


def test_spaces_of_all_kinds_stay():
    assert without_controls("東京\u3000大阪 10\u00a0km") == "東京\u3000大阪 10\u00a0km"
