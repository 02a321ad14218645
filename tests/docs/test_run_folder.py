"""The map of a run folder has each file and folder that a run leaves, and none that no run leaves."""

import re

import pytest
from tests.helpers.pages import text_of
from tests.helpers.run import CONFIG, write_setting

import grasp_lora

PAGE = text_of("docs/run-folder.md")
CELLS = re.findall(r"^\| (`.+?) \| ", PAGE, flags=re.M)
NAMED = set(re.findall(r"`([^`]+)`", " ".join(CELLS)))
FILES = {name.rpartition("/")[2] for name in NAMED if not name.endswith("/")}
PATTERNS = {name for name in FILES if name.startswith((".", "NAME."))}  # of figures and tables, named beside
WORDS = set(re.findall(r"`([^`]+)`", PAGE))
FOLDERS = {name.partition("/")[0] for name in NAMED if "/" in name}
# What leaves a file of its own; the other methods leave the same ones, in folders that are named after them.
SMALL = """
methods: [lora_target, merge, merge_prune, lorahub, optuna, grid, sweep, halving, curve, grasp, rank_check]
grid: [0.2, 0.4]
sweep: {ratios: [[0, 1], [1, 0]]}
optuna: {trials: 2}
halving: {rows: [2, null]}
lorahub: {budget: 6}
evaluation: {generate: 2, metrics: [em], deployment: true, points: true, test_examples: 4}
max_length: 40
max_new_tokens: 6
"""
MADE = {
    "adapters",
    "combined",
    "curve",
    "deployment",
    "dev",
    "eval",
    "final",
    "fixed",
    "grid",
    "halving",
    "learn",
    "merge",
    "merge_prune",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("setting"), CONFIG[: CONFIG.index("methods:")] + SMALL)
    return grasp_lora.run(folder / "run.yaml", runs=folder / "runs").folder


def is_named_by_its_kind(name):
    """Whether the page has the file as one of `NAME.svg` with its name in the row, as `trajectory`."""
    stem, _, suffix = name.rpartition(".")
    known = stem in WORDS or any(
        stem.startswith(word.removesuffix("SOURCE")) for word in WORDS if "_SOURCE" in word
    )
    return known and bool(PATTERNS & {f"NAME.{suffix}", f".{suffix}"})


def test_the_check_can_fail():
    assert not is_named_by_its_kind("nothing.svg")
    assert "nothing.json" not in FILES
    assert "rounds.jsonl" in FILES


@pytest.mark.slow
def test_the_map_of_a_run_folder(run):
    of_others = {"tensorboard", "survivor"}  # a Trainer's and TensorBoard's, who name their files
    paths = [path for path in run.rglob("*") if not of_others & {*path.relative_to(run).parts}]
    files = {path.name for path in paths if path.is_file()}
    folders = {path.name for path in run.iterdir() if path.is_dir()}
    events = {path.name.partition("tfevents")[0] for path in run.rglob("tensorboard/*")}
    assert not {name for name in files - FILES if not is_named_by_its_kind(name)}
    assert files >= FILES - PATTERNS - {"process.json"}  # which is there while the run is made
    assert folders == MADE | {"merged", "optuna", "report"}
    assert folders <= FOLDERS
    assert events == {"events.out."}
    assert list(run.rglob("survivor/checkpoints/checkpoint-*"))
    assert "`events.out.tfevents.*`" in PAGE
