"""Held-out rows as TRL has them, and a Trainer's own eval_dataset, against the losses of TRL's own tokens."""

import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tests.control.test_callback import EXAMPLES, TOKENIZER, trainer_for
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizer import tiny_chat_tokenizer
from torch.nn.functional import cross_entropy

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.curve_callback import RatioCurveCallback
from grasp_lora.control.evaluated import evaluation_loss, rows_in
from grasp_lora.control.examples import as_examples, loss_of
from grasp_lora.control.halving_search import HalvingSearch
from grasp_lora.errors import GraspError
from grasp_lora.lm.encoding import Encoded, Limits, encode

CHAT = tiny_chat_tokenizer()
CHAT.chat_template = (
    "{% if tools %}<user>{{ tools[0].function.name }}<end>{% endif %}"
    "{% if style is defined %}<user>{{ style }}<end>{% endif %}" + CHAT.chat_template
)
TOOLS = [{"type": "function", "function": {"name": "find", "description": "", "parameters": {}}}]
WORDS = ["abc", "de", "fghij", "klm", "n"]


def user(text):
    return {"role": "user", "content": text}


def model(text):
    return {"role": "assistant", "content": text}


FORMS = {
    "strings": [{"prompt": f"say {word}:", "completion": word} for word in WORDS],
    "messages": [{"prompt": [user(f"say {word}")], "completion": [model(word)]} for word in WORDS],
    "several turns": [
        {"prompt": [user("a"), model("b"), user(f"say {word}")], "completion": [model(word)]}
        for word in WORDS
    ],
    "text": [{"text": f"say {word}: {word}"} for word in WORDS],
}
for name, more in {
    "tools": {"tools": json.dumps(TOOLS)},
    "options of the template": {"chat_template_kwargs": {"style": "brief"}},
}.items():
    FORMS[name] = [row | more for row in FORMS["messages"]]


def sft(folder, rows, **options):
    trl = pytest.importorskip("trl")
    arguments = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "max_steps": 2}
    return trl.SFTTrainer(
        tiny_llama(),
        args=trl.SFTConfig(str(folder), disable_tqdm=True, **{**arguments, **options}),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
        processing_class=CHAT,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )


def plain_losses(trainer):
    """Row by row, without padding, of TRL's own tokens and labels."""
    losses = []
    for row in trainer.eval_dataset:
        logits = trainer.model.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        losses.append(cross_entropy(logits, torch.tensor(row["labels"][1:])))
    return torch.stack(losses).detach()


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_each_form_and_trls_own_have_the_same_losses(tmp_path, form):
    trainer = sft(tmp_path, FORMS[form], per_device_eval_batch_size=3)
    expected = plain_losses(trainer)
    for given in (FORMS[form], None):
        with torch.no_grad():
            losses = -GraspCallback(trainer, given)._reward(trainer.model)
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def test_the_last_turn_of_messages_is_the_target(tmp_path):
    trainer = sft(tmp_path, FORMS["several turns"])
    rows = [{"messages": row["prompt"] + row["completion"]} for row in FORMS["several turns"]]
    losses = -GraspCallback(trainer, rows)._reward(trainer.model).detach()
    torch.testing.assert_close(losses, plain_losses(trainer), rtol=1e-4, atol=1e-5)


def test_strings_as_turns(tmp_path):
    trainer = sft(tmp_path, FORMS["messages"])
    rows = [{"prompt": f"say {word}\n", "completion": word} for word in WORDS]
    losses = -GraspCallback(trainer, rows, prompt_format="chat")._reward(trainer.model).detach()
    torch.testing.assert_close(losses, plain_losses(trainer), rtol=1e-4, atol=1e-5)


def encoded(folder, rows, template=None, **limits):
    """Rows as a callback of a Trainer sees them, those before the answer and the answer."""
    trainer = trainer_for(folder)
    trainer.processing_class, trainer.chat_template = CHAT, template
    loss = loss_of(trainer, "dev", as_examples("dev", rows), Limits(**{"max_length": 40} | limits))
    found = []
    for batch in loss.batches:
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            targets = int((labels != -100).sum())
            found.append((CHAT.decode(ids[:-targets]), CHAT.decode(ids[-targets:])))
    return found


def test_tools_are_a_list_or_its_json(tmp_path):
    rows = [FORMS["messages"][0] | {"tools": tools} for tools in (TOOLS, json.dumps(TOOLS))]
    assert encoded(tmp_path, rows) == [("<user>find<end><bos><user>say abc<end><model>", "abc<end>")] * 2


def test_a_trainers_own_chat_template_is_taken(tmp_path):
    own = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert encoded(tmp_path, FORMS["messages"][:1], own) == [("user: say abc\n", "assistant: abc\n")]


def test_an_answer_in_messages_is_cut_as_in_strings(tmp_path):
    before = "<bos><user>say abc<end><model>"
    assert encoded(tmp_path, FORMS["messages"][:1], max_new_tokens=2) == [(before, "ab")]
    assert encoded(tmp_path, FORMS["messages"][:1], max_new_tokens=4) == [(before, "abc<end>")]


def test_learns_on_the_trainers_eval_dataset(tmp_path):
    trainer = sft(tmp_path, FORMS["messages"])
    grasp = GraspCallback(trainer, every=1)
    trainer.add_callback(grasp)
    trainer.train()
    assert len(grasp.result.rounds) == 2
    assert grasp.result.rounds[0].probes[0].standard_error > 0  # of paired losses, one for each row


def with_evaluation(folder, rows=4, **options):
    trainer = trainer_for(folder, **{"max_steps": 2, "save_only_model": False, **options})
    trainer.eval_dataset = [encode(one, TOKENIZER, Limits(40, 8)) for one in EXAMPLES[:rows]]
    return trainer


def test_every_callback_takes_it(tmp_path):
    trainer = with_evaluation(tmp_path)
    curve, same = RatioCurveCallback(trainer), RatioCurveCallback(trainer, EXAMPLES[:4], max_length=40)
    torch.testing.assert_close(curve._loss.per_example(trainer.model), same._loss.per_example(trainer.model))
    found = [
        HalvingSearch(lambda: with_evaluation(tmp_path / "out"), [0.0, 0.6], given, rungs=(1,), rows=(3,))
        .run()
        .best_ratio
        for given in (None, EXAMPLES)
    ]
    assert found[0] == found[1]


def test_which_rows_they_were_is_in_a_checkpoint(tmp_path):
    made = [with_evaluation(tmp_path, n, per_device_eval_batch_size=b) for n, b in ((4, 2), (4, 8), (3, 2))]
    digests = {GraspCallback(trainer).settings()["micro_dev"] for trainer in made}
    assert len(digests) == 2  # however they are batched


def test_padding_is_no_part_of_the_rows_and_labels_are(tmp_path):
    def digest(targets, **options):
        trainer = trainer_for(tmp_path, **options)
        lengths = zip((9, 5, 7), targets, strict=True)
        trainer.eval_dataset = [Encoded(tuple(range(4, 4 + length)), n) for length, n in lengths]
        return rows_in(evaluation_loss(trainer, "do without"))

    found = [digest((3, 2, 3), per_device_eval_batch_size=size) for size in (1, 3)]
    assert found[0] == found[1] != digest((3, 2, 4))


def test_a_collator_that_makes_one_sequence_of_all_gets_one_row_at_a_time(tmp_path):
    trainer = with_evaluation(tmp_path)
    expected = GraspCallback(trainer)._reward(trainer.model)
    collate = trainer.data_collator

    def flat(rows):
        batches = [collate([row]) for row in rows]
        return {key: torch.cat([batch[key] for batch in batches], 1) for key in ("input_ids", "labels")}

    trainer.data_collator = flat
    collate.only_targets = False
    torch.testing.assert_close(GraspCallback(trainer)._reward(trainer.model), expected)


def nothing_to_predict(trainer):
    trainer.data_collator = lambda rows: {"labels": torch.full((len(rows), 3), -100)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (nothing_to_predict, "eval_dataset row 0 has no token to predict"),
        (
            lambda trainer: setattr(trainer, "data_collator", lambda _: {}),
            "makes no labels of its eval_dataset",
        ),
        (
            lambda trainer: setattr(trainer, "eval_dataset", {"a": [], "b": []}),
            r"several eval_datasets \(a, b\)",
        ),
        (lambda trainer: setattr(trainer, "eval_dataset", []), "eval_dataset has no rows"),
    ],
)
def test_an_eval_dataset_that_cannot_be_measured(tmp_path, change, said):
    trainer = with_evaluation(tmp_path)
    change(trainer)
    with pytest.raises(GraspError, match=said):
        GraspCallback(trainer)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [user("a")]}, "row 0 needs .*, has messages"),
        ({"messages": [model("a"), user("b")]}, "row 0 ends in no message of the assistant"),
        ({"prompt": [user("a")], "completion": "b"}, "row 0 needs"),
        (
            {"prompt": [user("a" * 50)], "completion": [model("b")]},
            "row 0 has 56 tokens, where max_length is 40",
        ),
    ],
)
def test_a_row_that_cannot_be_used(tmp_path, row, said):
    trainer = trainer_for(tmp_path)
    trainer.processing_class = CHAT
    with pytest.raises(GraspError, match=said):
        GraspCallback(trainer, [row], max_length=40)


def test_messages_need_a_chat_template(tmp_path):
    with pytest.raises(GraspError, match="messages cannot be written in the tokenizer's chat template: "):
        GraspCallback(trainer_for(tmp_path), FORMS["messages"])
