"""What a library ends in is one message where somebody can mend it, and a traceback where nobody can."""

import errno
import os
import re
import subprocess
import sys

import pytest
import torch
from tests.helpers.hub import hub
from tests.helpers.models import tiny_llama
from tests.helpers.run import write_setting
from tests.helpers.tokenizer import tiny_tokenizer

from grasp_lora.cli.main import main
from grasp_lora.errors import GraspError
from grasp_lora.failures import advice
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Stage, Work

KEYS = ("batch_size", "max_length", "token_budget", "gradient_checkpointing", "quantization")


def takes_all_memory(resources, folder):
    torch.empty(1 << 60, dtype=torch.uint8)


def is_wrong(resources, folder):
    raise RuntimeError("our own")


def test_memory_that_runs_out_in_a_stage_names_it_and_what_to_lower(tmp_path):
    run = RunDirectory(tmp_path, Resources())
    with pytest.raises(GraspError, match=r"^learn/seed42: this machine's memory .* GB more were") as error:
        run.make(Stage("learn/seed42", Work(takes_all_memory), {}))
    assert all(key in str(error.value) for key in KEYS)
    assert isinstance(error.value.__cause__, RuntimeError)  # for --debug


def test_what_nobody_can_mend_stays_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="our own"):
        RunDirectory(tmp_path, Resources()).make(Stage("a", Work(is_wrong), {}))
    assert advice(RuntimeError("our own")) is None


def test_a_gpus_memory():
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"
    if not torch.cuda.is_available():
        error = torch.OutOfMemoryError(said)
    else:
        with pytest.raises(torch.OutOfMemoryError) as raised:
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        error = raised.value
    found = advice(error)
    assert re.match(r"the GPU's memory is not enough \([\d.]+ GiB more were asked for\)", found)
    assert all(key in found for key in KEYS)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk(number):
    error = OSError(number, os.strerror(number), "some/file")
    assert "some/file" in advice(error)
    assert "run the same command again" in advice(error)
    assert os.strerror(number) in advice(RuntimeError(f"PytorchStreamWriter: {os.strerror(number)}"))


def test_what_was_met_while_something_else_was_handled_counts():
    def met(whose):
        try:
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file")
            except OSError as error:
                if whose == "cause":
                    raise RuntimeError("our own") from error
                if whose == "nobody's":
                    raise RuntimeError("our own") from None
                raise RuntimeError("our own")  # noqa: B904
        except RuntimeError as error:
            return advice(error)

    assert "some/file" in met("context")
    assert "some/file" in met("cause")
    assert met("nobody's") is None


def test_any_verb_says_a_full_disk_in_one_message(tmp_path, capsys, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no device that is always full")
    write_setting(tmp_path)
    monkeypatch.setattr("sys.stdout", open("/dev/full", "w", buffering=1))  # noqa: SIM115
    command = ["config", str(tmp_path / "run.yaml")]
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"grasp: .*No space left on device: mend that, and run .*\n", error)
    with pytest.raises(OSError, match="No space left"):
        main([*command, "--debug"])


LOAD = """
import sys
from grasp_lora.errors import GraspError
from grasp_lora.lm.backbone import load_backbone

for name, revision in (("some/model", "v9"), ("some/none", None), ("some/gated", None)):
    try:
        load_backbone(name, revision=revision)
    except GraspError as error:
        print(error)
"""


def test_what_a_model_hub_refuses(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with hub({"some/model": {"main": tmp_path / "model"}}, gated=["some/gated"]) as address:
        told = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        told |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = subprocess.run(
            [sys.executable, "-c", LOAD], env={**os.environ, **told}, capture_output=True, text=True
        )
    revision, none, gated = done.stdout.splitlines()
    assert (
        "'some/model': the model hub has it, but no such revision: give a branch, tag or commit" in revision
    )
    assert "'some/none': it is no folder here and no repository that the model hub shows you" in none
    assert "'some/gated': the model hub gives it only to those who accepted its terms" in gated
    assert "hf auth login" in gated


def test_no_network_is_said(tmp_path, capsys):
    write_setting(tmp_path)
    assert main(["run", str(tmp_path / "run.yaml"), "backbone=nobody/nothing", f"runs={tmp_path}"]) == 2
    assert "'nobody/nothing': it is not on this machine, and the model hub cannot" in capsys.readouterr().err


def test_a_folder_that_holds_no_model_says_so_and_not_that_the_hub_is_gone(tmp_path, capsys):
    write_setting(tmp_path)
    (tmp_path / "backbone/config.json").unlink()
    assert main(["run", str(tmp_path / "run.yaml"), f"runs={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "cannot load the backbone" in error
    assert "model hub" not in error
