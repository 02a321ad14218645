"""Prompts in a chat template, against what transformers and TRL make of the same conversations."""

import os
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tests.helpers.models import tiny_llama
from tests.helpers.run import write_setting
from tests.helpers.tokenizer import CHATS, chat_tokenizer, tiny_chat_tokenizer

from grasp_lora.errors import GraspError
from grasp_lora.experiment import run
from grasp_lora.lm.chat import DAY, end_of_turn, prompt_in_chat
from grasp_lora.lm.encoding import Limits, encode, encode_prompt
from grasp_lora.lm.generation import generate, generate_ids
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.stage import fingerprint

BODY = "the river rose overnight and the lower road was closed by morning"
EXAMPLE = Example("x", f"Sum up.\nText: {BODY}\nTitle:\n", "A road is closed", body=(14, 14 + len(BODY)))
CHAT = Limits(2200, prompt_format="chat")
ENDS = {"llama": "<|eot_id|>", "qwen": "<|im_end|>\n", "gemma": "<end_of_turn>\n", "mistral": "</s>"}


def turns(example=EXAMPLE):
    asked = [{"role": "user", "content": example.prompt.strip()}]
    return asked, [{"role": "assistant", "content": example.target}]


@pytest.fixture(params=[(name, pieces) for name in CHATS for pieces in (False, True)], ids=str)
def form(request):
    name, pieces = request.param
    return name, chat_tokenizer(CHATS[name], pieces=pieces)


def test_a_row_is_the_conversation_that_transformers_writes(form):
    name, tokenizer = form
    made = encode(EXAMPLE, tokenizer, CHAT)
    asked, told = turns()
    assert list(made.input_ids) == tokenizer.apply_chat_template(asked + told)["input_ids"]
    assert made.input_ids.count(tokenizer.bos_token_id) == (name != "qwen")
    before = encode_prompt(EXAMPLE, tokenizer, 2000, "chat")
    assert list(made.input_ids[: len(made) - made.targets]) == before
    asking = {"add_generation_prompt": True, "enable_thinking": False}
    assert before == tokenizer.apply_chat_template(asked, **asking)["input_ids"]
    answer = tokenizer.decode(made.input_ids[len(before) :]).strip(" ").replace(" \n", "\n")
    assert answer == f"{EXAMPLE.target}{ENDS[name]}"
    assert tokenizer.decode([end_of_turn(tokenizer)]) == ENDS[name].strip()


def test_trl_makes_the_same_tokens_and_labels(form, tmp_path):
    trl = pytest.importorskip("trl")
    _, tokenizer = form
    asked, told = turns()
    row = {"prompt": asked, "completion": told, "chat_template_kwargs": {"enable_thinking": False}}
    trainer = trl.SFTTrainer(
        tiny_llama(),
        args=trl.SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_length=None),
        train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer,
    )
    theirs, made = trainer.train_dataset[0], encode(EXAMPLE, tokenizer, CHAT)
    assert theirs["input_ids"] == list(made.input_ids)
    assert [i for i in theirs["labels"] if i != -100] == list(made.input_ids[-made.targets :])


@pytest.mark.parametrize("limit", [160, 180, 200])
def test_a_long_prompt_loses_the_end_of_its_body_inside_the_template(form, limit):
    _, tokenizer = form
    long = Example("x", EXAMPLE.prompt.replace(BODY, BODY * 9), "t", body=(14, 14 + 9 * len(BODY)))
    ids = encode_prompt(long, tokenizer, limit, "chat")
    assert limit - 4 <= len(ids) <= limit
    text, whole = tokenizer.decode(ids), tokenizer.decode(encode_prompt(EXAMPLE, tokenizer, 2000, "chat"))
    start, end = whole.split(BODY)
    assert text.startswith(start)
    assert text.endswith(end)
    assert (BODY * 9).startswith(text[len(start) : -len(end)])


def test_an_answer_that_is_cut_loses_its_end_first(form):
    _, tokenizer = form
    whole, cut = (encode(EXAMPLE, tokenizer, Limits(400, new, prompt_format="chat")) for new in (None, 5))
    assert (cut.targets, cut.lost) == (5, whole.targets - 5)
    assert cut.input_ids == whole.input_ids[: len(cut)]


def test_an_answer_ends_with_its_turn():
    tokenizer, model = tiny_chat_tokenizer(), tiny_llama()
    end = tokenizer.convert_tokens_to_ids("<end>")
    model.lm_head = torch.nn.Linear(16, 48)  # with a bias
    with torch.no_grad():
        model.lm_head.bias[end] = 1e3
        model.lm_head.bias[tokenizer.convert_tokens_to_ids("<user>")] = 999.0
    example = Example("x", "say ab\n", "ab")
    prompt = encode_prompt(example, tokenizer, 40, "chat")
    assert tokenizer.decode(prompt) == "<bos><user>say ab<end><model>"
    assert generate_ids(model, tokenizer, [prompt], 5, prompt_format="chat").tolist() == [[end]]
    assert generate_ids(model, tokenizer, [prompt], 5).tolist() == [[end] * 5]
    assert generate(model, tokenizer, [example], Limits(40, 5, prompt_format="chat")) == [""]


def test_a_date_in_a_template_is_always_the_same_day():
    tokenizer = chat_tokenizer(
        "{{ strftime_now('%d %b %Y') }}, {{ strftime_now('%B %d, %Y') }}\n" + CHATS["gemma"]
    )
    text = tokenizer.decode(prompt_in_chat("a", tokenizer))
    assert text.startswith("26 Jul 2024, July 26, 2024\n<s><start_of_turn>user\na<end_of_turn>")


TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
OPENED = TURNS + "{% if add_generation_prompt %}assistant: <think>{% endif %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template: take prompt_format: plain"),
        (OPENED, "asks for thoughts, which training rows do not have"),
        ("{{ tools | length }}", r"cannot be used \(object of type 'NoneType' has no len\(\)\)"),
        ("{{ raise_exception('no') }}", r"cannot be used \(no\)"),
        ("{{ messages[0].content }}", "does not write prompt and answer once each"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_message(template, said):
    tokenizer = chat_tokenizer(CHATS["gemma"])
    tokenizer.chat_template = template
    with pytest.raises(GraspError, match=said):
        encode(EXAMPLE, tokenizer, CHAT)


def test_what_a_template_writes_between_its_question_and_the_answer_is_asked_too():
    tokenizer = chat_tokenizer(
        "{% for m in messages %}<|start|>{{ m.role }}{{ '<|channel|>final' if m.role == 'assistant' }}"
        "<|message|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    )
    made = encode(EXAMPLE, tokenizer, CHAT)
    assert tokenizer.decode(made.input_ids[-made.targets :]) == f"{EXAMPLE.target}<|end|>"
    before = tokenizer.decode(made.input_ids[: -made.targets])
    assert before.endswith("<|start|>assistant<|channel|>final<|message|>")


def test_an_answer_without_an_end_gets_end_of_text():
    tokenizer = chat_tokenizer(TURNS)
    made = encode(EXAMPLE, tokenizer, CHAT)
    assert tokenizer.decode(made.input_ids[-1:]) == "</s>"
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id


def test_an_answer_that_would_be_one_token_with_the_prompts_end_is_apart_from_it():
    tokenizer = chat_tokenizer(
        "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
        merges=[(":", ")")],
    )
    assert len(tokenizer(":)", add_special_tokens=False)["input_ids"]) == 1
    made = encode(Example("x", "Is it so?", ") it is"), tokenizer, CHAT)
    before = list(made.input_ids[: -made.targets])
    assert before == prompt_in_chat("Is it so?", tokenizer)
    assert tokenizer.decode(before) == "user:Is it so?\nassistant:"
    assert tokenizer.decode(made.input_ids[-made.targets :]) == ") it is\n</s>"


def test_a_turn_may_end_with_a_token_that_was_added_and_is_not_special():
    tokenizer = chat_tokenizer(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}[over]\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.add_tokens(["[over]"])
    assert tokenizer.decode([end_of_turn(tokenizer)]) == "[over]"
    made = encode(EXAMPLE, tokenizer, CHAT)
    assert tokenizer.decode(made.input_ids[-made.targets :]).lstrip() == f"{EXAMPLE.target}[over]\n"


@pytest.mark.parametrize("said", ["So it is.", "Yes. So it is. So it is said."])
def test_a_template_may_say_before_what_its_answer_is_told_by(said):
    tokenizer = chat_tokenizer(said + CHATS["gemma"])
    made = encode(EXAMPLE, tokenizer, CHAT)
    asked, told = turns()
    assert list(made.input_ids) == tokenizer.apply_chat_template(asked + told)["input_ids"]
    assert tokenizer.decode(made.input_ids[-made.targets :]) == f"{EXAMPLE.target}{ENDS['gemma']}"


def test_a_run_of_plain_prompts_keeps_its_keys():
    assert fingerprint(Limits(8, 4, 2), None) == {"max_length": 8, "max_new_tokens": 4, "token_budget": 2}
    assert fingerprint(CHAT, None)["prompt_format"] == "chat"


def test_a_backbone_without_a_template_is_refused_before_training(tmp_path):
    setting = write_setting(tmp_path)
    with pytest.raises(GraspError, match=r"^prompt_format is chat, and the backbone's tokenizer has no chat"):
        run(setting / "run.yaml", runs=str(tmp_path / "runs"), prompt_format="chat", methods=["lora_target"])
    assert not list(tmp_path.rglob("adapters"))


@pytest.mark.slow
@pytest.mark.skipif("CHAT_TEMPLATES" not in os.environ, reason="CHAT_TEMPLATES is no folder of templates")
def test_published_templates():
    """`CHAT_TEMPLATES=vendor/llama.cpp/models/templates`, of the source distribution of llama-cpp-python."""
    alike, refused = set(), set()
    asked, told = turns()
    for path in sorted(Path(os.environ["CHAT_TEMPLATES"]).glob("*.jinja")):
        tokenizer = chat_tokenizer(path.read_text(encoding="utf-8"))
        try:
            made = encode(EXAMPLE, tokenizer, Limits(20_000, prompt_format="chat"))
        except GraspError:
            refused.add(path.stem)
            continue
        end = tokenizer.decode(made.input_ids[-made.targets :])
        assert end.strip().startswith(EXAMPLE.target), path.stem
        options = {"chat_template": DAY + tokenizer.chat_template, "enable_thinking": False}
        if list(made.input_ids) == tokenizer.apply_chat_template(asked + told, **options)["input_ids"]:
            alike.add(path.stem)
    families = (
        "meta-llama",
        "Qwen-Qwen2.5",
        "Qwen-Qwen3",
        "google-gemma-2",
        "mistralai-Mistral",
        "microsoft",
    )
    known = {name for name in alike | refused if name.startswith(families)}
    assert len(known) > 6
    assert known <= alike
    assert len(alike) > 2 * len(refused)
