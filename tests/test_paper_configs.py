"""The configs of both papers' tables: each resolves, and its experiment can be planned."""

from pathlib import Path

import pytest
import yaml

import grasp_lora
from grasp_lora.config import Config, load_config
from grasp_lora.paths import cache_dir
from grasp_lora.plan import plan
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.run_directory import RunDirectory
from grasp_lora.tasks.card import find_card
from grasp_lora.tasks.prepare_card import prepare_card
from grasp_lora.tasks.prepared import write_prepared

FOLDER = Path(grasp_lora.__file__).parent / "configs" / "paper"
LEAVES = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("_"))
LONGEST = 8


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
        patch.setattr("grasp_lora.tasks.prepare_card.is_prepared", noted)
        folder = prepare_card(card)
    assert folder.parent == cache_dir() / "data"
    columns = {code: dict.fromkeys(card.columns(code), "text") for code in card.languages}
    rows = {
        code: {split: [{"id": split, **columns[code]}] for split in ("train", "dev", "micro_dev", "test")}
        for code in card.languages
    }
    task = {"name": name, "prompt": {code: card.template(code) for code in rows}, "target": card.target}
    write_prepared(folder, task, rows, {"inputs": inputs})


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_it_resolves_and_can_be_planned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(path, [f"runs={tmp_path}/runs"])
    assert isinstance(config.task, str)
    pretend_prepared(config.task, monkeypatch)
    inputs = Inputs(config)
    assert config.target.language in inputs.task.languages
    assert config.source.adapter is not None or config.source.language in inputs.task.languages
    jobs = plan(config, inputs, RunDirectory(config.folder))
    names = [job.name for job in jobs]
    assert names[-1] == "report"
    assert {f"eval/{method}/seed{config.seeds[0]}" for method in config.methods} <= set(names)
    assert all(set(job.needs) <= set(names[:i]) for i, job in enumerate(jobs))


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_it_is_a_few_lines_and_named_after_its_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert text.startswith("# ")
    assert yaml.safe_load(text)["name"] == path.stem.replace("_", "-")


def test_settings_of_grasp() -> None:
    chosen = {
        "xlsum_ar": (0.04, 0.02),
        "xlsum_zh": (0.04, 0.01),
        "mlqa_ar": (0.04, 0.01),
        "mlqa_zh": (0.05, 0.01),
    }
    for name, regularization in chosen.items():  # Sec. 4.3
        config = load(f"grasp_{name}")
        assert (config.control.beta, config.control.tau) == regularization
        assert (config.source.language, config.target.language) == ("en", name[-2:])
        assert config.seeds == (42, 1337, 9001)
        assert (config.max_length, config.training.epochs, config.training.learning_rate) == (2200, 10, 1e-4)
        assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (8, 32, 0.05)
        assert config.lora.target_modules == ("q_proj", "v_proj")
        assert config.grid == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
        assert config.evaluation.generate is None


def test_ablations_of_grasp() -> None:
    table3 = {"default": (0.05, 0.01), "no_tau": (0.05, 0.0), "high_tau": (0.05, 0.05)}
    table3 |= {"low_beta": (0.01, 0.01), "no_beta": (0.0, 0.01), "no_beta_tau": (0.0, 0.0)}
    for name, regularization in table3.items():
        control = load(f"grasp_table3_{name}").control
        assert (control.beta, control.tau, control.micro_dev) == (*regularization, 16)
    for size in (4, 8, 16, 32):
        config = load(f"grasp_table4_m{size}")
        assert (config.control.beta, config.control.tau, config.control.micro_dev) == (0.05, 0.01, size)
        card = find_card(str(config.task), [])
        assert card is not None
        assert card.language("ar").sizes.micro_dev >= size
        trained = load("grasp_xlsum_ar")
        assert config.target.adapter == trained.folder / "adapters" / "ar"
        assert config.source.adapter == trained.folder / "adapters" / "en"


@pytest.mark.parametrize("task", ["mimic", "scitldr", "bloomberg", "nlp", "medical"])
def test_settings_of_miyano_and_arase(task: str) -> None:
    language = "en" if task in ("mimic", "scitldr") else "ja"
    related, with_target = load(f"miyano_{task}_xs_wl"), load(f"miyano_{task}_xs_wl_tgt")
    for config in (related, with_target):  # Table 5
        training = config.training
        assert training.batch_size * training.gradient_accumulation == 16
        assert (training.epochs, training.learning_rate) == (40, 1e-4)
        assert config.target.language == language
        assert config.backbone == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert related.source.adapter == load("miyano_xlsum").folder / "adapters" / language
    assert related.target.adapter == load("miyano_wikilingua").folder / "adapters" / language
    assert with_target.source.adapter == load(f"miyano_related_{language}").folder / "merged"
    assert with_target.target.adapter is None
