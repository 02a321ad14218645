"""Adapters by name on a model hub: one on this machine, in processes that are not told to be offline."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from tests.helpers.adapter_checks import assert_equals_active_together, usual_pair
from tests.helpers.hub import hub
from tests.helpers.models import tiny_llama
from tests.helpers.run import write_setting

from grasp_lora.errors import GraspError
from grasp_lora.merging.hub import find_adapter

CONFIG = """
name: hub
backbone: BACKBONE
task: TASK
source: {language: en, adapter: some/source@v2}
target: {language: ar, adapter: some/target}
training: {epochs: 1, learning_rate: 1e-2}
lorahub: {budget: 2, adapters: {third: some/source}}
methods: [lora_source, lorahub]
max_length: 40
max_new_tokens: 6
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    pair = usual_pair(folder)
    for adapter in pair.values():
        (adapter / "tokenizer.json").write_text("not needed")
        (adapter / "checkpoint-1").mkdir()
        (adapter / "checkpoint-1/adapter_config.json").write_text("not needed")
    (folder / "empty").mkdir()
    (folder / "empty/README.md").write_text("a model")
    other = shutil.copytree(pair["target"], folder / "other")
    repositories = {
        "some/source": {"main": other, "v2": pair["source"]},
        "some/target": {"main": pair["target"]},
        "some/empty": {"main": folder / "empty"},
    }
    with hub(repositories) as address:
        yield pair, address


def python(code, tmp_path, address, *arguments):
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
    }
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True
    )


FIND = "import sys; from grasp_lora.merging.hub import find_adapter; print(find_adapter(sys.argv[1]))"


def test_a_folder_is_itself(tmp_path):
    assert find_adapter(tmp_path) == tmp_path
    (tmp_path / "file").write_text("")
    names = ("not/here/at-all", "./adapters/en", "single", "owner/name@", "a b/c", str(tmp_path / "file"))
    for other in names:
        reason = re.escape(f"{other} is no folder: give a saved PEFT adapter's, or")
        with pytest.raises(GraspError, match=reason):
            find_adapter(other)


def test_a_branch_a_commit_and_main(served, tmp_path):
    pair, address = served
    made = python(FIND, tmp_path, address, "some/source@v2")
    assert made.returncode == 0, made.stderr
    folder = tmp_path / made.stdout.strip()
    files = {path.name for path in folder.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    ours, theirs = (f / "adapter_model.safetensors" for f in (folder, pair["source"]))
    assert ours.read_bytes() == theirs.read_bytes()
    again = python(FIND, tmp_path, address, f"some/source@{folder.name}")
    assert again.stdout.strip() == str(folder)
    main = python(FIND, tmp_path, address, "some/source")
    assert main.stdout.strip() != str(folder)


def test_merging_by_name(served, tmp_path):
    pair, address = served
    code = (
        "import sys; from pathlib import Path; from grasp_lora import merge_adapters\n"
        "merge_adapters({'a': 'some/source@v2', 'b': 'some/target'}, Path(sys.argv[1]))"
    )
    made = python(code, tmp_path, address, tmp_path / "merged")
    assert made.returncode == 0, made.stderr
    assert_equals_active_together(tiny_llama, pair, tmp_path / "merged")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("some/nothing", "no repository that the model hub shows you"),
        ("some/empty", "some/empty on the model hub holds no adapter: adapter_config.json is missing"),
        ("some/source@v3", "some/source@v3 cannot be downloaded from the model hub: .*"),
    ],
)
def test_what_is_not_there_is_one_message(served, tmp_path, name, reason):
    made = python(FIND, tmp_path, served[1], name)
    assert re.search(f"GraspError: .*{reason}", made.stderr)


def test_a_hub_that_cannot_be_reached(tmp_path):
    made = python(FIND, tmp_path, "http://127.0.0.1:9", "some/source")
    assert "the model hub: it is not on this machine, and the model hub cannot be reached" in made.stderr


def test_a_run_with_adapters_from_the_hub(served, tmp_path):
    setting = write_setting(
        tmp_path / "setting" if (tmp_path / "setting").mkdir() is None else tmp_path, CONFIG
    )
    code = "import sys; from grasp_lora.cli.main import main; sys.exit(main(['run', *sys.argv[1:]]))"
    arguments = (setting / "run.yaml", f"runs={setting}/runs")
    made = python(code, tmp_path, served[1], *arguments)
    assert made.returncode == 0, made.stderr
    scores = json.loads((setting / "runs/hub/eval/lora_source/seed42/scores.json").read_text())
    assert "some--source" in scores["adapter"]
    weights = json.loads((setting / "runs/hub/combined/lorahub/weights.json").read_text())
    assert set(weights["weights"]) == {"en", "ar", "third"}
    again = python(code, tmp_path, "http://127.0.0.1:9", *arguments)  # from the cache, without a hub
    assert again.returncode == 0, again.stderr
    assert "eval/lora_source/seed42: done, skipped" in again.stderr
