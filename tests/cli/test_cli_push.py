"""`grasp push`: what goes to a hub on this machine, and what never does."""

import io
import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tests.helpers.adapter_checks import assert_same_changes, changes_of, config_of, edit_config, usual_pair
from tests.helpers.hub import hub

from grasp_lora.cli.main import main
from grasp_lora.merging import merge_adapters

BASE = "meta-llama/Meta-Llama-3-8B"
COMMANDS = """
import json, sys
from grasp_lora.cli.main import main
for arguments in json.loads(sys.argv[1]):
    print("exit", main(["push", *arguments]), flush=True)
    print("---", flush=True)
    print("---", file=sys.stderr, flush=True)
"""


@pytest.fixture
def merged(tmp_path):
    merge_adapters(usual_pair(tmp_path), tmp_path / "merged")
    edit_config(tmp_path / "merged", base_model_name_or_path="/home/me/models/llama")
    (tmp_path / "merged/train.jsonl").write_text('{"text": "secret"}')
    (tmp_path / "merged/mask.safetensors").write_bytes((tmp_path / "merged" / WEIGHTS).read_bytes())
    return tmp_path / "merged"


WEIGHTS = "adapter_model.safetensors"
UPLOADED = {"README.md", "adapter_config.json", WEIGHTS, "mask.safetensors", "parts.json"}


def push(tmp_path, *commands, answer="", token="hf_token"):
    """All in one process, since a hub's address is read once: what each of them printed."""
    (tmp_path / "uploads").mkdir()
    with hub({}, tmp_path / "uploads") as address:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
        environment |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", COMMANDS, json.dumps([[str(a) for a in one] for one in commands])]
        done = subprocess.run(command, env=environment, input=answer, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return list(zip(done.stdout.split("---\n"), done.stderr.split("---\n"), strict=True))


def test_to_a_hub(merged, tmp_path):
    private, again, public, seen = push(
        tmp_path,
        (merged, "me/titles", "--base", BASE),
        (merged, "me/titles", "--base", BASE, "--yes"),
        (merged, "me/open", "--base", BASE, "--yes", "--public"),
        (merged, "me/open", "--base", BASE, "--yes"),
        answer="y\n",
    )[:4]
    assert "exit 0" in private[0]
    assert "To me/titles, which is private (base model: meta-llama/Meta-Llama-3-8B):" in private[0]
    assert "/me/titles\n" in private[0].split("Uploaded: http://127")[1]
    assert all(f"bytes  {name}" in private[0] for name in UPLOADED)
    assert "exit 0" in again[0]  # the same repository
    assert "exit 0" in public[0]
    assert "To me/open, which all can see" in public[0]
    assert "exit 2" in seen[0]
    assert "me/open is there, and all can see it" in seen[1]
    assert (tmp_path / "uploads/.private").read_text() == "me/titles"

    made = tmp_path / "uploads/me/titles"
    assert {path.name for path in made.iterdir()} == UPLOADED
    assert_same_changes(changes_of(made), changes_of(merged))
    assert config_of(made)["base_model_name_or_path"] == BASE
    card = ModelCard.load(made / "README.md")
    assert card.data.base_model == BASE
    assert f'base, adapter = "{BASE}", "me/titles"' in card.text
    texts = [path.read_text() for path in made.iterdir() if path.suffix in (".md", ".json")]
    assert "/home/me" not in "".join(texts)
    assert config_of(merged)["base_model_name_or_path"] == "/home/me/models/llama"  # ours stays


@pytest.mark.parametrize(
    ("answer", "reason"), [("n\n", "nothing was uploaded"), ("\n", "nothing was"), ("", "give --yes")]
)
def test_nothing_without_a_yes(merged, monkeypatch, capsys, answer, reason):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert main(["push", str(merged), "me/titles", "--base", BASE]) == 2  # no hub is reached, nor asked
    assert reason in capsys.readouterr().err


def test_without_a_login(merged, tmp_path):
    ((said, error), _) = push(tmp_path, (merged, "me/titles", "--base", BASE, "--yes"), token="")
    assert "exit 2" in said
    assert "the model hub does not take me/titles" in error
    assert "hf auth login" in error


def refused(capsys, adapter, *arguments):
    """Before any hub is asked: none is reached here."""
    assert main(["push", str(adapter), "me/titles", "--yes", *arguments]) == 2
    return capsys.readouterr().err


def test_a_base_model_that_only_this_machine_knows(merged, capsys):
    said = refused(capsys, merged)
    assert "is '/home/me/models/llama', which is no name on the model hub" in said
    assert "--base NAME" in said
    edit_config(merged, base_model_name_or_path=None)
    assert "--base NAME" in refused(capsys, merged)
    assert "--base NAME" in refused(capsys, merged, "--base", str(merged))


def test_a_packaged_base_model_has_a_name_on_the_hub(merged, capsys):
    cached = "/home/me/.cache/grasp-lora/backbones/gemma-3-270m-1.0.0-float32"
    edit_config(merged, base_model_name_or_path=cached)
    assert main(["push", str(merged), "no-name", "--yes"]) == 2
    shown = capsys.readouterr()
    assert "(base model: google/gemma-3-270m)" in shown.out
    assert "'no-name' is no repository's name: give OWNER/NAME" in shown.err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# Mine\nhf_abcdefghijklmnopqrstuvwxyz\n", "README.md is not published, as it names a token"),
        ("# Mine\nfrom /home/me/data/train.jsonl\n", "it names the path /home/me/data/train.jsonl"),
    ],
)
@pytest.mark.hostile(
    "tokens and user names in cards, env.json, reports", "none is written, none is published"
)
def test_cards_with_tokens_or_paths(merged, capsys, text, reason):
    (merged / "README.md").write_text(text)
    said = refused(capsys, merged, "--base", BASE)
    assert reason in said
    assert "hf_abc" not in said


@pytest.mark.hostile(
    "tokens and user names in cards, env.json, reports", "none is written, none is published"
)
def test_other_files_with_paths(merged, capsys):
    parts = json.loads((merged / "parts.json").read_text())
    site = next(iter(parts))
    parts[site][0]["name"] = "/home/me/adapters/en"
    (merged / "parts.json").write_text(json.dumps(parts))
    assert "parts.json is not published" in refused(capsys, merged, "--base", BASE)
    (merged / "parts.json").unlink()
    save_file(load_file(merged / WEIGHTS), merged / WEIGHTS, metadata={"from": "/home/me/x", "format": "pt"})
    assert f"{WEIGHTS} is not published" in refused(capsys, merged, "--base", BASE)


def test_without_a_network(merged, tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    commands = [[str(merged), "me/titles", "--base", BASE, "--yes"]]
    command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(command, env={**os.environ, **nowhere}, capture_output=True, text=True)
    assert "exit 2" in done.stdout
    assert "the model hub cannot be reached: check name and network" in done.stderr
    assert "hf auth login" not in done.stderr
