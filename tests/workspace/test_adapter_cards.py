"""Cards: what stages leave, what copies add, and what never gets into one."""

import ast
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tests.helpers.adapter_checks import edit_config
from tests.helpers.models import random_adapter, tiny_llama
from tests.helpers.run import write_setting
from transformers import AutoModelForCausalLM

from grasp_lora.errors import GraspError
from grasp_lora.experiment import run
from grasp_lora.workspace.about import named
from grasp_lora.workspace.card import PLACEHOLDER, Facts, public_base, render
from grasp_lora.workspace.exporting import export, export_merged
from grasp_lora.workspace.private import private_things, text_of
from grasp_lora.workspace.publishing import card_of_copy, prepare_upload, scored

METHODS = ["lora_source", "merge", "ties", "lorahub", "grid", "merge_random", "prune_after", "grasp"]
SETTINGS = {
    "methods": METHODS, "seeds": [42], "grid": [0.2, 0.4], "variants": {}, "lorahub.budget": 2,
    "evaluation.deployment": False, "evaluation.metrics": ["rougeL", "chrf"], "training.epochs": 1,
}  # fmt: skip
MADE = {
    "adapters/en": "A new adapter (rank 8, alpha 32, dropout 0.05, on q_proj and v_proj) was trained",
    "merged": "3. Merged (sum): en and ar.",
    "combined/ties": "Combined by PEFT's ties, density 0.4, weights (en 1, ar 0.5): en and ar.",
    "combined/lorahub": "LoRAHub's weights (en ",
    "grid/seed42": "was the best of 0.2, 0.4 by the dev loss.",
    "final/seed42": "The ratio was learned on copy's ar rows",
    "randomised/en": "a control.",
    "prune_after/seed42": "and not trained any more.",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = write_setting(tmp_path_factory.mktemp("run"))
    done = run(
        folder / "run.yaml",
        runs=str(folder / "runs"),
        **SETTINGS,
    )
    return folder, done.folder


def cards(run_folder):
    return {path.parent.relative_to(run_folder).as_posix(): path for path in run_folder.rglob("README.md")}


def test_every_adapter_has_one(made):
    _, folder = made
    adapters = {
        path.parent.relative_to(folder).as_posix() for path in folder.rglob("adapter_model.safetensors")
    }
    assert cards(folder).keys() == adapters
    assert adapters >= MADE.keys()
    for name, path in cards(folder).items():
        text = path.read_text()
        assert "More Information" not in text
        outputs = json.loads((folder / name / "done.json").read_text())["outputs"]
        assert "README.md" in outputs
        for part in [said for where, said in MADE.items() if where == name]:
            assert part in text


def test_the_metadata_is_what_the_hub_reads(made):
    _, folder = made
    data = ModelCard.load(folder / "final/seed42/README.md").data.to_dict()
    assert data["base_model"] == "backbone"
    assert data["base_model_relation"] == "adapter"
    assert data["language"] == ["ar", "en"]
    assert (data["library_name"], data["pipeline_tag"]) == ("peft", "text-generation")
    assert "model-index" not in data  # no scores yet
    assert "license" not in data  # that is for its owner to say
    english = ModelCard.load(folder / "adapters/en/README.md").data.to_dict()
    assert english["language"] == ["en"]


def test_p_data_seed_rate_and_the_epoch(made):
    _, folder = made
    text = (folder / "final/seed42/README.md").read_text()
    pruned = json.loads((folder / "final/seed42/pruned.json").read_text())
    assert f"Pruned at p = {pruned['p']:.4g}: {100 * pruned['share']:.1f} % of" in text
    for row in ("| copy | en | train | 12 |", "| copy | ar | train | 8 |", "| copy | ar | micro_dev | 4 |"):
        assert row in text
    assert "| test |" not in text  # which it never looked at
    losses = json.loads((folder / "final/seed42/dev_losses.json").read_text())
    assert f"number {losses['best_epoch']}: {losses['by_epoch'][losses['best_epoch']]:.4f} nats" in text
    assert "learning rate 0.01, times 0.85 per epoch; seed 42" in text


def test_no_rows_and_no_paths(made):
    setting, folder = made
    rows = [json.loads(line) for file in setting.glob("*.jsonl") for line in file.open()]
    for path in cards(folder).values():
        text = path.read_text()
        assert str(setting) not in text
        assert not private_things(text)
        assert not [row["text"] for row in rows if row["text"] in text]


def test_the_code_loads_the_adapter_and_answers(made, capsys, monkeypatch):
    setting, folder = made
    monkeypatch.chdir(setting)  # where `backbone` is
    text = (folder / "final/seed42/README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, flags=re.S)[1]
    assert PLACEHOLDER in code
    assert "'say {text}\\n'.format(text=\"your text\")" in code
    names = {}
    exec(code.replace(PLACEHOLDER, str(folder / "final/seed42")).replace("False)[0", "False)[0"), names)
    assert (
        capsys.readouterr().out.strip()
        == names["tokenizer"].decode(names["answer"], skip_special_tokens=True).strip()
    )
    assert 1 <= len(names["answer"]) <= 6
    assert names["model"].peft_config


def test_a_copy_gets_the_scores_of_its_run(made):
    _, folder = made
    text = card_of_copy(folder / "final/seed42", "someone/titles")
    data = ModelCard(text).data
    (row,) = scored(folder / "final/seed42")
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found.keys() == {"loss", "rougeL", "chrf"}
    assert found["loss"] == round(row.test_loss, 4)
    assert {result.dataset_name for result in data.eval_results} == {"copy (ar)"}
    assert data.model_name == "titles"
    assert 'base, adapter = "backbone", "someone/titles"' in text
    assert f"| dev, 4 | loss | {row.dev_loss:.4f} |" in text
    assert "nrefs:1\\|case:mixed" in text  # chrF's signature, its bars escaped
    assert card_of_copy(folder / "final/seed42", "someone/titles") == text


def test_a_changed_copy_does_not_claim_the_scores(made):
    _, folder = made
    text = card_of_copy(folder / "final/seed42", "x", notes=["Rank 2."], shape="rank 2", changed=True)
    assert "model-index" not in text
    assert "Of the adapter before it was changed:" in text
    assert "- Rank 2." in text
    assert "A LoRA adapter (rank 2)" in text
    assert "entries are zero" not in text


def test_a_card_that_somebody_wrote_is_kept(tmp_path):
    adapter = random_adapter(tiny_llama(), tmp_path / "a", seed=0, target_modules=["q_proj"], r=2)
    (adapter / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert card_of_copy(adapter, "x") == "---\nlicense: mit\n---\n# Mine\n"


def test_pefts_empty_card_is_replaced(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(write_setting(tmp_path) / "backbone")
    adapter = random_adapter(model, tmp_path / "a", seed=0, target_modules=["q_proj"], r=2)
    assert "[More Information Needed]" in (adapter / "README.md").read_text()
    text = card_of_copy(adapter, "x", base="owner/model")
    assert "rank 2, on q_proj" in text
    assert 'base, adapter = "owner/model", "x"' in text
    assert ModelCard(text).data.base_model == "owner/model"
    assert "More Information" not in text


def test_a_run_of_an_earlier_version_gets_what_its_evaluation_says(made, tmp_path):
    _, folder = made
    shutil.copytree(folder, tmp_path / "old")
    for path in (tmp_path / "old").rglob("README.md"):
        path.write_text("# Model Card for Model ID\n\n[More Information Needed]\n")
    text = card_of_copy(tmp_path / "old/final/seed42", "x")
    assert "GRASP: from en to ar, 16 optimizer steps on rows of ar; seed 42." in text
    assert "| copy | ar | micro_dev | 4 |" in text


def test_a_finished_run_stays_finished(made, caplog):
    with caplog.at_level("INFO", "grasp_lora"):
        run(made[0] / "run.yaml", runs=str(made[0] / "runs"), **SETTINGS)
    assert "final/seed42: done, skipped" in caplog.text
    assert "started" not in caplog.text


def test_given_adapters_by_their_names_alone():
    given = {
        "en": Path("/c/hub/models--some--source/snapshots/0123456789abc"),
        "ar": Path("/home/me/ar-lora"),
    }
    assert named(given) == "en (some/source@0123456) and ar (ar-lora)"


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("packaged:gemma-3-270m", "google/gemma-3-270m"),
        ("/home/me/.cache/grasp-lora/backbones/gemma-3-270m-1.0.0-float32", "google/gemma-3-270m"),
        ("/home/me/models/llama", "llama"),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
    ],
)
def test_what_a_base_model_is_called(name, public):
    assert public_base(name)[0] == public


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"in {Path.home()}/models", 1),
        ('{"a": "/tmp/x/y.json"}', 1),
        ("C:\\\\Users\\\\me", 1),
        ("~/models", 1),
        ("hf_abcdefghijklmnopqrstuvwxyz", 1),
        ("file:///home/me/secret.txt", 1),
        ("~/.cache/x", 1),
        ("path:/home/me/x", 1),
        ("//nas/share/me", 1),
        ("C:/Users/me/x", 1),
        ("D:/models/x", 1),
        (r"\\server\share", 1),
        ("/scratch/me/data", 1),
        ("/Volumes/disk/x", 1),
        ("my_hf_abcdefghijklmnopqrstuvwxyz", 1),
        ("http://host.org:8080/data/x, owner/data/x, 2026/11/26, q_proj/v_proj, ./data/x, N//2, hf_hub", 0),
        (r".*layers\.\d+\.(q|v)_proj and \bself_attn\b of tensors", 0),
        ("see https://huggingface.co/tmp/x and a/b/c, 3/4, rank 8/16 and/or", 0),
        (f"both /{os.listdir('/')[0]}/a/b and hf_abcdefghijklmnopqrstu", 2),
    ],
)
def test_paths_and_tokens_are_seen(text, found):
    assert len(private_things(text)) == found


def test_cards_are_the_same_each_time(made, tmp_path):
    """Else a stage's results would seem to be others when it is made again."""
    setting, folder = made
    run(setting / "run.yaml", runs=str(tmp_path), **SETTINGS | {"methods": ["merge"]})
    for name in ("adapters/en", "merged"):
        assert (tmp_path / "tiny" / name / "README.md").read_text() == (
            folder / name / "README.md"
        ).read_text()


def test_json_is_read_as_it_is_meant(tmp_path):
    file = tmp_path / "adapter_config.json"
    file.write_text(
        '{"target_modules": ".*\\\\bself_attn\\\\b", "a": [{"\\u002fhome/me": "\\\\\\\\host\\\\me"}]}'
    )
    assert private_things(text_of(file)) == ["the path /home/me", "the path \\\\host\\me"]
    for name in ("adapter_config.json", "README.md", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(b"\xff{")
        with pytest.raises(GraspError, match=f"{name} is damaged"):
            text_of(tmp_path / name)


def code_of(text):
    return re.search(r"```python\n(.*?)\n```$", text, flags=re.S | re.M)[1]


@pytest.fixture
def adapter(tmp_path):
    return random_adapter(tiny_llama(), tmp_path / "a", seed=0, target_modules=["q_proj"], r=2)


NASTY = 'a"; __import__("os").system("id") #\n```\n'


def test_names_are_no_code(adapter):
    edit_config(adapter, base_model_name_or_path=NASTY)
    (adapter / "README.md").unlink(missing_ok=True)
    text = card_of_copy(adapter, NASTY)
    (assigned,) = [node for node in ast.parse(code_of(text)).body if isinstance(node, ast.Assign)][:1]
    assert ast.literal_eval(assigned.value) == (NASTY, NASTY)
    assert text.count("\n```") == 2


def test_the_revision_of_the_base_model_goes_along(adapter, tmp_path):
    (tmp_path / "config.yaml").write_text("backbone: owner/model\nrevision: v1.5\n")  # of a run around it
    edit_config(adapter, base_model_name_or_path="owner/model")
    loads = 'from_pretrained(base, revision="v1.5")'
    (adapter / "README.md").unlink(missing_ok=True)
    assert card_of_copy(adapter, "x").count(loads) == 2
    assert "revision" not in card_of_copy(adapter, "x", base="owner/other")  # it has no such revision
    whole = card_of_copy(adapter, "x", merged=True)
    assert 'from_pretrained("x")' in whole
    assert "revision" not in whole
    export(adapter, tmp_path / "elsewhere/out")
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(GraspError, match=r"config\.yaml cannot be read"):
        card_of_copy(adapter, "x")
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "up").mkdir()
    prepare_upload(tmp_path / "elsewhere/out", tmp_path / "up", "me/x")
    for folder in (tmp_path / "elsewhere/out", tmp_path / "up"):
        assert json.loads((folder / "adapter_config.json").read_text())["revision"] == "v1.5"
        assert (folder / "README.md").read_text().count(loads) == 2


def test_the_base_model_is_loaded_at_its_revision(adapter, tmp_path):
    edit_config(adapter, base_model_name_or_path="owner/model", revision="v1.5")
    asked = []

    def load(name, **how):
        asked.append((name, how.get("revision")))
        raise GraspError("far enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grasp_lora.workspace.exporting.load_backbone", load)
        for base in (None, "owner/other"):
            with pytest.raises(GraspError, match="far enough"):
                export_merged(adapter, tmp_path / "out", base=base)
    assert asked == [("owner/model", "v1.5"), ("owner/other", None)]


def test_a_stages_card_has_the_revision(tmp_path):
    facts = Facts("owner/model", "", "rank 2", "x", revision="v1.5")
    assert render(facts).count('from_pretrained(base, revision="v1.5")') == 2


@pytest.mark.parametrize("content", [b"\xff\xfe", b"---\na: [\n---\n<!-- Filled in by GRASP LoRA. -->\n"])
def test_a_damaged_card_is_one_message(adapter, tmp_path, content):
    (adapter / "README.md").write_bytes(content)
    with pytest.raises(GraspError, match=r"README\.md is damaged .*mend or remove it"):
        export(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()
