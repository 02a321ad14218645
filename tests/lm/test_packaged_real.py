"""The real packaged backbones: right shape, right tokens, sensible language."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from grasp_lora.lm.packaged import backbones as packaged
from grasp_lora.lm.packaged.backbones import resolve_backbone
from grasp_lora.lm.packaged.convert_once import _join

pytestmark = pytest.mark.slow

GEMMA = pytest.mark.parametrize("real", ["gemma-3-270m"], indirect=True)
SMOLLM2 = pytest.mark.parametrize("real", ["smollm2-135m"], indirect=True)

TEXTS = {
    "en": "The library opens at nine in the morning and closes at six in the evening. Readers may borrow "
    "up to five books at a time, and must return them within three weeks.",
    "ar": "تفتح المكتبة أبوابها في الساعة التاسعة صباحا وتغلق في السادسة مساء. "
    "يمكن للقراء استعارة خمسة كتب في المرة الواحدة، وعليهم إعادتها خلال ثلاثة أسابيع.",
    "zh": "图书馆早上九点开门，晚上六点关门。读者每次最多可以借五本书，并且必须在三周之内归还。",
    "ja": "図書館は午前九時に開き、午後六時に閉まります。"
    "利用者は一度に五冊まで本を借りることができ、三週間以内に返さなければなりません。",
}


@dataclass
class Real:
    """A real packaged backbone, converted into the test run's cache."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def loss(self, text: str) -> float:
        """Nats per token."""
        tokens = self.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            return float(self.model(tokens, labels=tokens).loss)

    def continuation(self, prompt: str) -> str:
        tokens = self.tokenizer(prompt, return_tensors="pt")
        written = self.model.generate(**tokens, max_new_tokens=8, do_sample=False)
        return str(self.tokenizer.decode(written[0, tokens.input_ids.shape[1] :]))


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> Real:
    name: str = request.param
    for module, _ in packaged._BACKBONES[name].parts:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    folder = resolve_backbone(f"packaged:{name}")
    return Real(name, AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


def gguf_metadata(name: str, folder: Path) -> dict[str, Any]:
    """What the file itself says, without the architecture's name in front; vocabularies are left out."""
    import gguf

    backbone = packaged._BACKBONES[name]
    _join(packaged._BACKBONE_FOLDERS._installed(name, backbone), folder / "whole.gguf")
    fields = gguf.GGUFReader(folder / "whole.gguf").fields
    return {key.split(".", 1)[-1]: field.contents() for key, field in fields.items() if len(field.data) == 1}


@pytest.mark.parametrize("real", ["gemma-3-270m", "smollm2-135m"], indirect=True)
def test_the_published_configuration_agrees_with_the_file(real: Real, tmp_path: Path) -> None:
    said, config = gguf_metadata(real.name, tmp_path), real.model.config
    assert said["block_count"] == config.num_hidden_layers
    assert said["embedding_length"] == config.hidden_size
    assert said["feed_forward_length"] == config.intermediate_size
    assert said["attention.head_count"] == config.num_attention_heads
    assert said["attention.head_count_kv"] == config.num_key_value_heads
    assert said.get("attention.key_length", said.get("rope.dimension_count")) == config.head_dim
    assert said.get("attention.sliding_window") == getattr(config, "sliding_window", None)
    assert said["context_length"] == config.max_position_embeddings
    assert said["attention.layer_norm_rms_epsilon"] == pytest.approx(config.rms_norm_eps, rel=1e-6)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    assert said["rope.freq_base"] == rope["rope_theta"]
    for token in ("bos", "eos"):
        ids = {getattr(place, f"{token}_token_id") for place in (config, real.tokenizer)}
        assert ids == {said[f"ggml.{token}_token_id"]}
    assert said["ggml.padding_token_id"] == real.tokenizer.pad_token_id == config.pad_token_id
    assert said["ggml.add_bos_token"] == (real.tokenizer("x").input_ids[0] == real.tokenizer.bos_token_id)
    assert len(real.tokenizer) == config.vocab_size


@GEMMA
def test_gemma_knows_four_languages(real: Real) -> None:
    losses = {language: real.loss(text) for language, text in TEXTS.items()}
    assert losses["en"] < 3, losses
    assert max(losses.values()) < 4.5, losses  # chance is 12.5
    assert "القاهرة" in real.continuation("عاصمة مصر هي")
    rope = real.model.config.rope_parameters
    assert (rope["sliding_attention"]["rope_theta"], real.model.config.final_logit_softcapping) == (1e4, None)
    full = [i for i, kind in enumerate(real.model.config.layer_types) if kind == "full_attention"]
    assert full == [5, 11, 17]


@GEMMA
def test_gemma_tokens_are_those_of_llama_cpp(real: Real) -> None:
    """Pinned from llama.cpp 11549 on the same file; SentencePiece gives them too."""
    ids = [
        2, 138, 13498, 109, 236873, 150345, 43758, 237389, 236951, 85141, 236743, 236778, 236771, 236778,
        236812, 478, 397, 404, 391,
    ]  # fmt: skip
    assert real.tokenizer("  two\n\n\nمرحبا 你好、こんにちは 2024🦙").input_ids == ids
    for text in TEXTS.values():
        assert real.tokenizer.decode(real.tokenizer(text).input_ids, skip_special_tokens=True) == text
    turns = ["<start_of_turn>", "<end_of_turn>"]
    assert real.tokenizer.convert_tokens_to_ids(turns) == [105, 106]


@SMOLLM2
def test_smollm2_knows_english(real: Real) -> None:
    assert real.loss(TEXTS["en"]) < 3.5  # chance is 10.8
    assert real.continuation("The capital of France is").startswith(" Paris")


@SMOLLM2
def test_smollm2_tokens_are_those_of_llama_cpp(real: Real) -> None:
    """Pinned from llama.cpp 11549 on the same file."""
    ids = [271, 256, 37, 38, 39, 11181, 40, 36395, 20602, 44626, 31462, 10805, 216, 18645, 250, 48392, 138]
    assert real.tokenizer("is  567\n  8 مرحبا 你好").input_ids == ids
    for text in TEXTS.values():
        assert real.tokenizer.decode(real.tokenizer(text).input_ids) == text
