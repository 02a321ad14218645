"""BERTScore with tiny random encoders: against bert-score's own scorer, and against the formula."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from grasp_lora.errors import GraspError
from grasp_lora.metrics.bertscore import BERTSCORE, BertScorer, _baseline

bert_score = pytest.importorskip("bert_score")

LETTERS = "abcdefghijklmnopqrstuvwxyzق京"
VOCABULARY = {piece: i for i, piece in enumerate(["[CLS]", "[PAD]", "[SEP]", "[UNK]", *LETTERS])}
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY), "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
    "num_hidden_layers": 3, "max_position_embeddings": 16, "pad_token_id": 1,
}  # fmt: skip


def letter_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """One token per letter; spaces and control characters vanish."""
    backend = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    special = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, **settings)


def save(folder: Path, kind: str = "bert", **settings: Any) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Wider weights than the default: so that tokens differ and some similarities are low.
        sizes = {**SIZES, "initializer_range": 0.4}
        model = (
            BertModel(BertConfig(**sizes)) if kind == "bert" else XLMRobertaModel(XLMRobertaConfig(**sizes))
        )
    model.save_pretrained(folder)
    letter_tokenizer(**settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("encoder"), model_max_length=16)


@pytest.fixture(scope="module")
def scorer(folder: Path) -> BertScorer:
    return BertScorer(str(folder), 2, name="tiny", batch_size=3)


TEXTS = ["abc", "the quick fox", "قق a", "京", "zz", "a long one that is cut at sixteen tokens"]
REFERENCES = ["abd", "quick the", "قق b", "q", "zz", "another long one that is cut somewhere too"]


def values(scorer: BertScorer, predictions: list[str], references: list[list[str]]) -> list[list[float]]:
    """Per example: precision, recall, F1."""
    scores = scorer.score(predictions, references)
    assert [score.name for score in scores] == list(BERTSCORE)
    return [list(row) for row in zip(*(score.examples or () for score in scores), strict=True)]


def test_equals_the_official_scorer(
    scorer: BertScorer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # for bert-score a path with "t5" in it is a T5 model
    official = bert_score.BERTScorer(model_type=".", num_layers=2, device="cpu")
    wanted = torch.stack(official.score(TEXTS, REFERENCES), dim=1) * 100
    found = torch.tensor(values(scorer, TEXTS, [[text] for text in REFERENCES]))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    several = [[one, other] for one, other in zip(REFERENCES, TEXTS[::-1], strict=True)]
    wanted = torch.stack(official.score(TEXTS, several), dim=1) * 100
    torch.testing.assert_close(torch.tensor(values(scorer, TEXTS, several)), wanted, atol=1e-4, rtol=0)


def plain(folder: Path, prediction: str, reference: str, layer: int) -> list[float]:
    """Greedy matching by cosine (Zhang et al., 2020, Sec. 3); [CLS] and [SEP] match but have no weight."""
    model, tokenizer = BertModel.from_pretrained(folder).eval(), letter_tokenizer()

    def embed(text: str) -> torch.Tensor:
        ids = tokenizer(text, truncation=True, max_length=16, return_tensors="pt").input_ids
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[layer][0].double()
        return states / states.norm(dim=1, keepdim=True)

    cosines = embed(prediction) @ embed(reference).T
    precision = cosines[1:-1].max(dim=1).values.mean()
    recall = cosines[:, 1:-1].max(dim=0).values.mean()
    f1 = 2 * precision * recall / (precision + recall)
    return [100 * float(share) for share in (precision, recall, f1)]


@pytest.mark.parametrize("layer", [1, 3])
def test_equals_the_formula(folder: Path, layer: int) -> None:
    scorer = BertScorer(str(folder), layer, batch_size=2)
    found = values(scorer, TEXTS, [[text] for text in REFERENCES])
    for row, prediction, reference in zip(found, TEXTS, REFERENCES, strict=True):
        assert row == pytest.approx(plain(folder, prediction, reference, layer), abs=1e-3)


def test_empty_texts_score_zero_without_disturbing_the_others(
    scorer: BertScorer, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = ["", "abc", " \n", "x", "", "the quick fox"]
    references = [["abc"], ["abd"], [""], [""], [""], ["", "quick the"]]
    found = values(scorer, predictions, references)
    assert [row == [0.0, 0.0, 0.0] for row in found] == [True, False, True, True, True, False]
    alone = values(scorer, ["abc", "the quick fox"], [["abd"], ["quick the"]])
    assert found[1] == pytest.approx(alone[0], abs=1e-3)
    assert found[5] == pytest.approx(alone[1], abs=1e-3)
    assert [score.value for score in scorer.score(["", ""], [["a"], [""]])] == [0, 0, 0]
    assert capsys.readouterr().err == ""


@given(st.lists(st.text("abcق京 ", max_size=6), min_size=1, max_size=4))
def test_a_copy_scores_100_and_nothing_leaves_the_range(scorer: BertScorer, texts: list[str]) -> None:
    for text, row in zip(texts, values(scorer, texts, [[text] for text in texts]), strict=True):
        assert row == pytest.approx([100 if text.strip() else 0] * 3, abs=1e-3)
        assert max(row) <= 100
    for row in values(scorer, texts, [["京zqa"] for _ in texts]):
        assert all(0 <= value <= 100 for value in row)


@pytest.mark.parametrize(("kind", "positions"), [("bert", 16), ("xlm-roberta", 14)])
def test_a_tokenizer_without_a_limit_gets_the_encoders(kind: str, positions: int, tmp_path: Path) -> None:
    scorer = BertScorer(str(save(tmp_path / "unlimited", kind)), 1)
    assert f"|max-tokens:{positions}|" in scorer.signature
    long = "abc" * 100
    assert values(scorer, [long], [[long]])[0] == pytest.approx([100] * 3, abs=1e-3)


def test_a_lower_limit_can_be_set(folder: Path) -> None:
    scorer = BertScorer(str(folder), 1, max_length=4)
    assert "|max-tokens:4|" in scorer.signature
    assert values(scorer, ["abxyz"], [["abc"]])[0] == pytest.approx([100] * 3, abs=1e-3)


def test_a_path_that_bert_score_takes_for_a_t5_works(tmp_path: Path) -> None:
    scorer = BertScorer(str(save(tmp_path / "mt5-like")), 1)
    assert values(scorer, ["a"], [["a"]])[0] == pytest.approx([100] * 3, abs=1e-3)


def test_the_signature_names_the_encoder_and_its_settings(scorer: BertScorer) -> None:
    for score in scorer.score(["a"], [["b"]]):
        assert score.signature.startswith(
            "refs:best|agg:mean|encoder:tiny|layer:2|max-tokens:16|idf:no|rescaled:no|bert-score:0."
        )


@pytest.mark.parametrize("layers", [0, 4])
def test_a_layer_that_the_encoder_lacks_is_refused(folder: Path, layers: int) -> None:
    with pytest.raises(GraspError, match=f"num_layers must be 1 to 3, got {layers}"):
        BertScorer(str(folder), layers)


def test_what_is_no_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GraspError, match="cannot be loaded"):
        BertScorer(str(tmp_path / "nowhere"), 1)
    sizes = T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5Model(sizes).save_pretrained(tmp_path / "two")
    with pytest.raises(GraspError, match="has a decoder"):
        BertScorer(str(tmp_path / "two"), 1)


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save(BertModel.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(GraspError, match="cannot be loaded"):
        BertScorer(str(tmp_path), 1)


def test_missing_weights_are_refused_but_a_pooler_is_not_needed(folder: Path, tmp_path: Path) -> None:
    model = BertModel.from_pretrained(folder, add_pooling_layer=False)
    letter_tokenizer().save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    BertScorer(str(tmp_path), 3)
    state = {name: tensor for name, tensor in model.state_dict().items() if "layer.1.output" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(GraspError, match=r"lacks the weights.*layer\.1\.output"):
        BertScorer(str(tmp_path), 3)


def test_rescaled_equals_the_official_scorer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = BertScorer(str(folder), 2, name="google-bert/bert-base-multilingual-cased", baseline="zh")
    monkeypatch.chdir(folder)
    path = Path(bert_score.__file__).parent / "rescale_baseline/zh/bert-base-multilingual-cased.tsv"
    official = bert_score.BERTScorer(
        model_type=".", num_layers=2, device="cpu", lang="zh", rescale_with_baseline=True
    )
    official.baseline_path = str(path)
    wanted = torch.stack(official.score(TEXTS, REFERENCES), dim=1) * 100
    found = torch.tensor(values(scorer, TEXTS, [[text] for text in REFERENCES]))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert "|rescaled:zh|" in scorer.signature


def test_a_baseline_by_hand(folder: Path) -> None:
    # Layer 9 of the file: F is 0.62803453, so that 0.727 raw is (0.727 - 0.628) / (1 - 0.628) = 0.266.
    assert _baseline("bert-base-multilingual-cased", "zh", 9) == (0.62840384, 0.62833464, 0.62803453)
    scorer = BertScorer(str(folder), 1, name="bert-base-multilingual-cased", baseline="zh")
    nothing = values(scorer, [""], [["a"]])[0]
    assert nothing == pytest.approx([100 * -b / (1 - b) for b in (0.3425565, 0.34244964, 0.3399823)])


def test_a_baseline_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(
        GraspError, match=r"no baseline .* for the language 'ar' .*knows .*en.*zh.*rescale: false"
    ):
        BertScorer(str(folder), 1, name="bert-base-multilingual-cased", baseline="ar")
    with pytest.raises(GraspError, match=r"'tiny', layer 1, .*it knows none"):
        BertScorer(str(folder), 1, name="tiny", baseline="zh")
