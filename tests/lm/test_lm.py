"""Encoding, batches, loss and generation on tiny models of every architecture."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.models import TINY_MODELS, tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer
from transformers import TrainingArguments

from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.batches import TargetCollator, batches_by_tokens
from grasp_lora.lm.encoding import Encoded, Limits, encode, encode_prompt
from grasp_lora.lm.generation import generate, generate_ids
from grasp_lora.lm.loss import TargetLoss, evaluation_mode
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.tasks.example import Example

TOKENIZER = tiny_tokenizer()
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "near", "the", "river", "bank"]
EXAMPLES = [
    Example(
        str(i),
        f"sum: {' '.join(WORDS[: 1 + i % 5])}\ntitle:",
        WORDS[-1 - i % 7],
        body=(5, 5 + len(" ".join(WORDS[: 1 + i % 5]))),
    )
    for i in range(8)
]
LIMITS = {"max_length": 60, "max_new_tokens": 12}


@pytest.fixture(params=TINY_MODELS)
def model(request):
    return TINY_MODELS[request.param][0]()


def encoded(examples=EXAMPLES):
    return [encode(e, TOKENIZER, Limits(**LIMITS)) for e in examples]


def plain_losses(model):
    """One example at a time, full logits, no padding: as simple as it gets."""
    losses = []
    for e in encoded():
        ids = torch.tensor([e.input_ids])
        log_probabilities = model(input_ids=ids).logits.log_softmax(-1)[0]
        targets = range(len(e) - e.targets, len(e))
        losses.append(-sum(log_probabilities[t - 1, e.input_ids[t]] for t in targets) / e.targets)
    return torch.stack(losses).detach()


def test_loss_is_the_plain_one_at_any_batch_size(model):
    expected = plain_losses(model)
    for budget in (1, 100, 10_000):
        loss = TargetLoss(EXAMPLES, TOKENIZER, model, token_budget=budget, **LIMITS)
        torch.testing.assert_close(loss.per_example(model), expected, rtol=1e-4, atol=1e-5)
        assert loss(model) == pytest.approx(expected.mean().item(), rel=1e-5)
    assert len(loss.batches) == 1


def test_training_loss_and_gradients_equal_those_of_full_logits(model):
    collate = TargetCollator(TOKENIZER, model)
    batch = collate(encoded()[:3])
    kept = batch["labels"].shape[1]
    full = {k: v for k, v in batch.items() if k != "logits_to_keep"}
    full["labels"] = torch.nn.functional.pad(
        batch["labels"], (batch["input_ids"].shape[1] - kept, 0), value=-100
    )
    gradients = []
    for inputs in (batch, full):
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        gradients.append((loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_a_forward_without_the_arguments_gets_the_plain_way():
    model = tiny_llama()
    plain = type("Plain", (torch.nn.Module,), {})()
    plain.inner = model
    plain.forward = lambda input_ids, attention_mask, labels=None, use_cache=None: model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
        labels=labels,
    )
    collate = TargetCollator(TOKENIZER, plain)
    assert set(inspect.signature(plain.forward).parameters) >= set(collate(encoded()))
    loss = TargetLoss(EXAMPLES, TOKENIZER, plain, **LIMITS)
    torch.testing.assert_close(loss.per_example(plain), plain_losses(model), rtol=1e-4, atol=1e-5)


def test_encoding_ends_with_end_of_text():
    ids = encode(EXAMPLES[0], TOKENIZER, Limits(**LIMITS))
    text = TOKENIZER.decode(ids.input_ids)
    assert text == f"<bos>{EXAMPLES[0].prompt}{EXAMPLES[0].target}<eos>"
    assert ids.targets == len(EXAMPLES[0].target) + 1


@given(st.integers(16, 80), st.integers(0, 90))
def test_a_long_prompt_loses_the_end_of_its_body_only(limit, length):
    body = ("abcdefghij" * 9)[:length]
    example = Example("x", f"sum: {body}\ntitle:", "t", body=(5, 5 + length))
    text = TOKENIZER.decode(encode_prompt(example, TOKENIZER, limit), skip_special_tokens=True)
    assert text.startswith("sum: ")
    assert text.endswith("\ntitle:")
    kept = text[5:-7]
    assert body.startswith(kept)
    assert len(kept) >= min(length, limit - 16)  # start token, five and seven characters, some slack


def test_a_prompt_without_a_body_to_cut_is_an_error():
    with pytest.raises(GraspError, match=r"example x.*14 tokens without the body .* where 5 fit"):
        encode_prompt(Example("x", "a long prompt", "t"), TOKENIZER, 5)
    with pytest.raises(GraspError, match="example x"):
        encode_prompt(Example("x", "ab cdef gh", "t", body=(3, 7)), TOKENIZER, 5)


def test_a_long_target_is_cut_where_a_limit_is_given():
    example = Example("x", "p:", "abcdefghijklmnop")
    cut = encode(example, TOKENIZER, Limits(20, 4))
    assert TOKENIZER.decode(cut.input_ids) == "<bos>p:abcd"
    assert (cut.targets, cut.lost) == (4, 13)
    whole = encode(example, TOKENIZER, Limits(20))
    assert TOKENIZER.decode(whole.input_ids) == "<bos>p:abcdefghijklmnop<eos>"
    assert (whole.targets, whole.lost) == (17, 0)
    with pytest.raises(GraspError, match="example x"):
        encode(example, TOKENIZER, Limits(19))


def test_answers_that_lose_their_end_are_counted(caplog):
    examples = [Example("x", "p:", "abcdefgh"), Example("y", "p:", "abc"), Example("z", "p:", "abcd")]
    loss = TargetLoss(examples, TOKENIZER, tiny_llama(), max_length=20, max_new_tokens=4)
    assert loss.count == 3
    assert "2 of 3 answers are longer than max_new_tokens = 4 (the longest has 9)" in caplog.text
    caplog.clear()
    TargetLoss(examples, TOKENIZER, tiny_llama(), max_length=20)
    assert not caplog.text


@pytest.mark.parametrize("words", [3, 60, 90])  # of 96 that fit: few, most, nearly all
def test_a_long_prompt_is_tokenized_a_few_times(words):
    calls = []

    def counting(text):
        calls.append(text)
        return TOKENIZER(text)

    counting.eos_token_id = TOKENIZER.eos_token_id
    fixed, body = "x" * words, "abcdefghij" * 500
    example = Example("x", f"{fixed}{body}.", "t", body=(words, words + len(body)))
    ids = encode_prompt(example, counting, 96)
    assert len(ids) == 96
    assert len(calls) <= 10


def test_a_body_that_is_far_too_long_is_not_tokenized_whole():
    seen = []

    def counting(text):
        seen.append(len(text))
        return TOKENIZER(text)

    counting.eos_token_id = TOKENIZER.eos_token_id
    body = "abcdefghij" * 10**5
    example = Example("x", f"{body}.\n", "t", body=(0, len(body)))
    ids = encode_prompt(example, counting, 96)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == body[:93] + ".\n"  # and the start token
    assert max(seen) < 10_000


def test_a_body_that_only_looks_too_long_is_kept():
    """Where a token has a hundred characters, as a run of spaces may."""

    def sparing(text):
        return {"input_ids": [5] * -(-len(text) // 100)}

    sparing.eos_token_id = TOKENIZER.eos_token_id
    body = " " * 9000
    assert len(encode_prompt(Example("x", f"{body}\n", "t", body=(0, 9000)), sparing, 96)) == 91


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = batches_by_tokens(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)
    longest = [max(lengths[i] for i in b) for b in batches]
    assert longest == sorted(longest, reverse=True)


def greedy(model, stops=(TOKENIZER.eos_token_id,)):
    """Each example's new tokens up to a stop token, alone and without a cache."""
    answers = []
    for example in EXAMPLES:
        ids = encode_prompt(example, TOKENIZER, 48)
        answer = []
        while len(answer) < 12 and not (answer and answer[-1] in stops):
            answer.append(model(input_ids=torch.tensor([ids + answer])).logits[0, -1].argmax().item())
        answers.append(answer)
    return answers


def texts(answers, stops=(TOKENIZER.eos_token_id,)):
    cut = [[token for token in answer if token not in stops] for answer in answers]
    return [TOKENIZER.decode(answer, skip_special_tokens=True).strip() for answer in cut]


def terse_llama():
    """The other tiny models repeat one token until the limit; this one says several, then end-of-text."""
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.lm_head.weight[TOKENIZER.eos_token_id] *= 2.5
    return model


def test_generation_is_greedy_and_the_same_at_any_batch_size(model):
    expected = texts(greedy(model))
    for budget in (1, 10_000):
        assert generate(model, TOKENIZER, EXAMPLES, Limits(**LIMITS, token_budget=budget)) == expected


def test_answers_end_at_end_of_text_each_by_itself():
    model = terse_llama()
    model.generation_config.eos_token_id = None  # the tokenizer's is enough
    expected = greedy(model)
    assert {answer[-1] for answer in expected} == {TOKENIZER.eos_token_id}
    assert len({len(answer) for answer in expected}) > 2
    prompts = [encode_prompt(example, TOKENIZER, 48) for example in EXAMPLES]
    longest = max(map(len, expected))
    filled = [answer + [TOKENIZER.pad_token_id] * (longest - len(answer)) for answer in expected]
    assert generate_ids(model, TOKENIZER, prompts, 12).tolist() == filled
    assert [generate_ids(model, TOKENIZER, [prompt], 12)[0].tolist() for prompt in prompts] == expected
    for budget in (1, 100, 10_000):
        assert generate(model, TOKENIZER, EXAMPLES, Limits(**LIMITS, token_budget=budget)) == texts(expected)


@pytest.mark.parametrize("with_end_of_text", [True, False])
def test_the_models_other_stop_tokens_end_an_answer_and_are_not_in_it(with_end_of_text):
    model = terse_llama()
    end, other = TOKENIZER.eos_token_id, greedy(model)[0][-2]
    assert TOKENIZER.decode([other], skip_special_tokens=True)  # none that decoding skips
    model.generation_config.eos_token_id = [end, other] if with_end_of_text else other
    expected = greedy(model, (end, other))
    assert {answer[-1] for answer in expected} == {end, other}
    prompts = [encode_prompt(example, TOKENIZER, 48) for example in EXAMPLES]
    assert [generate_ids(model, TOKENIZER, [prompt], 12)[0].tolist() for prompt in prompts] == expected
    for budget in (1, 10_000):
        answers = generate(model, TOKENIZER, EXAMPLES, Limits(**LIMITS, token_budget=budget))
        assert answers == texts(expected, (end, other))


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_models_generation_settings_change_nothing_and_stay(wrapped):
    model = terse_llama()
    expected = texts(greedy(model))
    settings = {
        "repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "min_new_tokens": 11, "min_length": 50,
        "suppress_tokens": [greedy(model)[0][0]], "do_sample": True, "temperature": 9.0, "num_beams": 3,
        "use_cache": False,
    }  # fmt: skip
    model.generation_config.update(**settings)
    outer = new_adapter(model, Lora(r=2)) if wrapped else model
    assert generate(outer, TOKENIZER, EXAMPLES, Limits(**LIMITS)) == expected
    assert {name: getattr(model.generation_config, name) for name in settings} == settings


def test_a_text_that_is_all_target_loses_only_its_first_token():
    model = tiny_llama()
    loss = TargetLoss.from_encoded([Encoded((5, 6, 7), 3)], TargetCollator(TOKENIZER, model))
    log_probabilities = model(input_ids=torch.tensor([[5, 6, 7]])).logits.log_softmax(-1)[0]
    expected = -(log_probabilities[0, 6] + log_probabilities[1, 7]).item() / 2
    assert loss(model) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_evaluation_leaves_each_module_in_the_mode_it_was_in(compiled):
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Sequential(torch.nn.Dropout(0.5)))
    model[1].eval()
    model[1].append(model[0])  # shared
    model.register_module("none", None)
    model = torch.compile(model) if compiled else model
    before = [module.training for module in model.modules()]
    assert set(before) == {True, False}
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_no_examples_is_an_error():
    with pytest.raises(GraspError, match="no examples"):
        TargetLoss([], TOKENIZER, tiny_llama())


def test_a_step_takes_as_many_examples_on_two_gpus_as_on_one(tmp_path, monkeypatch):
    """The Trainer would give each of a machine's GPUs a batch of `batch_size`."""
    finish = TrainingArguments.__post_init__

    def two_gpus(self):
        finish(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", two_gpus)
    options = Training(batch_size=3)
    trainer = build_trainer(
        new_adapter(tiny_llama(), Lora(r=2)), TOKENIZER, encoded(), options, 42, tmp_path, "test"
    )
    assert trainer.args.train_batch_size == 3
