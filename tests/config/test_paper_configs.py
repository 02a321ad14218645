"""The configs of both papers' tables: each resolves, and its experiment can be planned."""

from itertools import product
from pathlib import Path

import pytest
import yaml
from tests.helpers.sources import all_rows, json_lines, tar_bz2, xlsum_row

import grasp_lora
from grasp_lora.config.tree import Config
from grasp_lora.data.card import find_card
from grasp_lora.data.folder import write_prepared
from grasp_lora.data.prepare import prepare_card
from grasp_lora.experiment import read_config as load_config
from grasp_lora.experiment import start
from grasp_lora.methods.plan import chosen, plan
from grasp_lora.paths import cache_dir

FOLDER = Path(grasp_lora.__file__).parent / "configs" / "paper"
LEAVES = sorted(FOLDER.glob("*/*.yaml"))
LONGEST = 16


def load(name: str) -> Config:
    return load_config(FOLDER / f"{name}.yaml")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRASP_CACHE", str(tmp_path / "cache"))


def pretend_prepared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a row per split where the task is looked for, as if it had been prepared from its source."""
    card = find_card(name, [])
    assert card is not None
    inputs: dict[str, object] = {}

    def noted(folder: Path, wanted: dict[str, object]) -> bool:
        inputs.update(wanted)
        return True

    with monkeypatch.context() as patch:
        patch.setattr("grasp_lora.data.prepare.is_prepared", noted)
        folder = prepare_card(card)
    assert folder.parent == cache_dir() / "data"
    columns = {code: dict.fromkeys(card.columns(code), "text") for code in card.languages}
    rows = {
        code: {split: [{"id": split, **columns[code]}] for split in ("train", "dev", "micro_dev", "test")}
        for code in card.languages
    }
    task = {
        "name": name,
        "prompt": {code: card.template(code) for code in rows},
        "target": card.target,
        "metrics": list(card.metrics),
    }
    write_prepared(folder, task, rows, {"inputs": inputs})


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_it_resolves_and_can_be_planned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(path, [f"runs={tmp_path}/runs"])
    for task in {config.task, *(side.task for side in config.sources if side.task)}:
        assert isinstance(task, str)
        pretend_prepared(task, monkeypatch)
    x = start(config)
    assert config.target.language in x.task.languages
    assert all(side.language in x.tasks.get(side.label, x.task).languages for side in config.sources)
    assert all(side.adapter in (None, "none") for side in (*config.sources, config.target))
    stages = plan(x)
    names = [stage.name for stage in stages]
    assert names[-1] == "report"
    evaluated = [f"eval/{method.name}/seed{config.seeds[0]}" for method in chosen(config)]
    assert set(evaluated) <= set(names)
    assert "bertscore_f1" in stages[names.index(evaluated[0])].given["metrics"]
    assert all({need.name for need in stage.needs} <= set(names[:i]) for i, stage in enumerate(stages))


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_it_is_a_few_lines_and_named_after_its_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert text.startswith("# ")
    assert yaml.safe_load(text)["name"] == f"{path.parent.name}-{path.stem}".replace("_", "-")


def test_settings_of_grasp() -> None:
    chosen = {
        "xlsum_ar": (0.04, 0.02),
        "xlsum_zh": (0.04, 0.01),
        "mlqa_ar": (0.04, 0.01),
        "mlqa_zh": (0.05, 0.01),
    }
    for name, regularization in chosen.items():  # Sec. 4.3
        config = load(f"grasp/{name}")
        assert (config.control.beta, config.control.tau) == regularization
        assert (config.source.language, config.target.language) == ("en", name[-2:])
        assert config.seeds == (42, 1337, 9001)
        assert (config.max_length, config.training.epochs, config.training.learning_rate) == (2200, 10, 1e-4)
        assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (8, 32, 0.05)
        assert config.lora.target_modules == ("q_proj", "v_proj")
        assert config.grid == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
        assert config.evaluation.generate is None


def test_rows_of_grasps_table_2() -> None:
    for name in ("xlsum_ar", "xlsum_zh", "mlqa_ar", "mlqa_zh"):
        config = load(f"grasp/{name}")
        assert config.methods == (
            "zero_shot", "lora_target", "ties", "lorahub", "merge", "merge_prune", "grasp"
        )  # fmt: skip
        pruning = config.merge_prune
        assert (pruning.importance, pruning.unit, pruning.value) == ("input", "parameter", "zero")


def test_ablations_of_grasp() -> None:
    table3 = {"default": (0.05, 0.01), "no_tau": (0.05, 0.0), "high_tau": (0.05, 0.05)}
    table3 |= {"low_beta": (0.01, 0.01), "no_beta": (0.0, 0.01), "no_beta_tau": (0.0, 0.0)}
    config = load("grasp/table3")
    rows = {"default": config.control, **config.variants}
    assert {name: (row.beta, row.tau) for name, row in rows.items()} == table3
    assert {row.micro_dev for row in rows.values()} == {16}

    sizes = load("grasp/table4")
    assert {row.micro_dev for row in (sizes.control, *sizes.variants.values())} == {4, 8, 16, 32}
    assert {(row.beta, row.tau) for row in (sizes.control, *sizes.variants.values())} == {(0.05, 0.01)}
    card = find_card(str(sizes.task), [])
    assert card is not None
    assert card.language("ar").sizes.micro_dev == 32
    moving = load("grasp/figure2")
    assert {**moving.variants} == {**config.variants, **sizes.variants}
    usual = load("grasp/xlsum_ar")
    for ablation in (config, sizes, moving):
        assert ablation.methods == ("grasp",)
        for key in ("source", "target", "lora", "training", "max_length", "backbone", "seed"):
            assert getattr(ablation, key) == getattr(usual, key)  # so the adapters are the same ones


@pytest.mark.parametrize("task", ["mimic", "scitldr", "bloomberg", "nlp", "medical"])
def test_settings_of_miyano_and_arase(task: str) -> None:
    language = "en" if task in ("mimic", "scitldr") else "ja"
    related, with_target = load(f"alm/{task}_xs_wl"), load(f"alm/{task}_xs_wl_tgt")
    for config in (related, with_target):  # Table 5
        training = config.training
        assert training.batch_size * training.gradient_accumulation == 16
        assert (training.epochs, training.learning_rate) == (40, 1e-4)
        assert (len(config.seeds), config.repeat) == (3, "adapters")
        assert config.target.language == language
        assert config.backbone == "meta-llama/Meta-Llama-3-8B-Instruct"
        assert [(side.label, side.language, side.task) for side in config.sources] == [
            ("xlsum", language, "xlsum_full"),
            ("wikilingua", language, "wikilingua"),
        ]
        assert {"lorahub", "merge", "merge_prune"} <= set(config.methods)
        assert "grid" not in config.methods
        pruning = config.merge_prune
        assert (pruning.importance, pruning.unit, pruning.value) == ("input", "parameter", "zero")
    assert related.target.adapter == "none"
    assert {"zero_shot", "lora_source"} <= set(related.methods)
    assert with_target.target.adapter is None
    assert "lora_target" in with_target.methods


@pytest.mark.parametrize("task", ["bloomberg", "nlp", "medical"])
def test_cells_of_miyano_and_arases_table_4(task: str) -> None:
    base = load(f"alm/{task}_xs_wl_tgt")
    for cell in product(("module", "parameter"), ("input", "gradient"), ("zero", "init")):
        config = load(f"alm/table4_{task}_{'_'.join(cell)}")
        pruning = config.merge_prune
        assert (pruning.unit, pruning.importance, pruning.value) == cell
        assert bool(pruning.thresholds) == (pruning.unit == "module")
        for key in ("task", "training", "source", "target"):
            assert getattr(config, key) == getattr(base, key)
        assert config.methods == ("merge_prune",)


def test_sizes_of_miyano_and_arases_figure_6() -> None:
    card = find_card("bloomberg_ja", [])
    assert card is not None
    sizes = card.language("ja").sizes
    for count, kind in product((5, 100, 200), ("xs_wl", "xs_wl_tgt")):
        config = load(f"alm/figure6_{count}_{kind}")
        assert config.target.train_examples == count <= int(sizes.train) + sizes.pool
        assert config.target.adapter == load(f"alm/bloomberg_{kind}").target.adapter


def test_the_first_16_of_the_larger_micro_dev_are_the_usual_ones(tmp_path: Path) -> None:
    """So that one run on 32 has all rows of GRASP's Table 4."""
    members = {
        f"arabic_{split}.jsonl": json_lines([xlsum_row(1000 * i + n, "arabic") for n in range(120)])
        for i, split in enumerate(("train", "val", "test"))
    }
    source = tar_bz2(tmp_path / "arabic.tar.bz2", members)
    drawn = []
    for name in ("xlsum", "xlsum_micro32"):
        card = find_card(name, [])
        assert card is not None
        prepare_card(card, source, tmp_path / name, languages=["ar"])
        drawn.append({split: found["ar"] for split, found in all_rows(tmp_path / name).items()})
    usual, larger = drawn
    assert larger.pop("micro_dev")[:16] == usual.pop("micro_dev")
    assert larger == usual
