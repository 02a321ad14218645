"""What users of large and of instruct models do that once went wrong, or went on without a word."""

import logging
import math

import pytest
import torch
from tests.control.test_callback import MICRO_DEV, TOKENIZER, adapted, trainer_for
from tests.helpers.run import CONFIG, write_setting
from tests.helpers.tokenizer import tiny_chat_tokenizer
from tests.lm.test_optimizers import ROWS, Rates
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from grasp_lora import experiment
from grasp_lora.cli.main import main
from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.curve_callback import RatioCurveCallback
from grasp_lora.control.evaluated import evaluation_loss
from grasp_lora.control.examples import as_examples
from grasp_lora.control.moments import reset_optimizer_state
from grasp_lora.errors import GraspError
from grasp_lora.experiment import read_config, run, start
from grasp_lora.failures import advice
from grasp_lora.lm.adapters import Lora
from grasp_lora.lm.chat import check_chat
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.footprint import shapes_of
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.workspace.chosen import as_chosen
from grasp_lora.workspace.records import DevLosses
from grasp_lora.workspace.room import warn_of_memory
from grasp_lora.workspace.stage import fingerprint

SMALL = CONFIG[: CONFIG.index("methods:")] + "methods: [merge]\nmax_length: 40\nmax_new_tokens: 6\n"
SMALL += "evaluation: {generate: 0}\n"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return write_setting(tmp_path_factory.mktemp("setting"), SMALL)


def test_modules_may_be_placed_one_by_one(setting, monkeypatch):
    monkeypatch.setattr("grasp_lora.workspace.room._free", lambda device: 0)  # and no memory is compared
    x = start(setting / "run.yaml", {"device_map": {"": "cpu"}, "runs": str(setting / "runs"), "name": "map"})
    plans = experiment._plans([x], force=False)
    warn_of_memory(plans)
    result = run(setting / "run.yaml", runs=setting / "runs", name="map", device_map={"": "cpu"})
    assert result.rows[0].test_loss > 0


def test_memory_that_is_spread_is_not_compared_with_one_devices(setting, caplog, monkeypatch):
    monkeypatch.setattr("grasp_lora.workspace.room._free", lambda device: 0)
    for given, count in (({}, 1), ({"device_map": {"": "cpu"}}, 0)):
        caplog.clear()
        config = read_config(setting / "run.yaml", {"runs": str(setting / "none"), **given})
        warn_of_memory(experiment._plans([start(config)], force=False))
        assert sum("memory may not be enough" in one.getMessage() for one in caplog.records) == count


def test_a_model_whose_layers_differ_has_shapes_or_none_and_no_traceback(tmp_path):
    config = Gemma3nTextConfig(
        vocab_size=64, vocab_size_per_layer_input=64, hidden_size=16, hidden_size_per_layer_input=8,
        intermediate_size=[24, 48], num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, laurel_rank=4, num_kv_shared_layers=0, layer_types=["full_attention"] * 2,
        activation_sparsity_pattern=[0.0] * 2,
    )  # fmt: skip
    Gemma3nForCausalLM(config).save_pretrained(tmp_path)
    shapes = shapes_of(str(tmp_path), Lora(), dtype="float32", device="cpu", revision=None)
    assert shapes is None or shapes.inner == 48


def test_modules_that_the_model_has_not_are_said_before_anything_is_trained(setting, capsys):
    wrong = [str(setting / "run.yaml"), f"runs={setting}/wrong", "lora.target_modules=[c_attn]"]
    for command in (["run", *wrong, "--dry-run"], ["run", *wrong]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "cannot place LoRA on ['c_attn'] (lora.target_modules)" in error
        assert "q_proj" in error
    assert not (setting / "wrong/tiny/adapters").exists()


@pytest.mark.parametrize(
    ("setting_of", "said"),
    [
        ("device_map={'': 0}", "cannot be used here"),
        ("device_map={model.layers: nowhere, model.norm: cpu}", "cannot be used here"),
        ("attention=flash_attention_2", "flash-attn"),
        ("training.torch_compile=true", "needs a C++ compiler"),
        ("prompt_format=chat", "chat"),
    ],
)
def test_a_dry_run_ends_with_what_the_run_refuses(setting, capsys, monkeypatch, setting_of, said):
    monkeypatch.setenv("PATH", str(setting))  # no compiler is there
    monkeypatch.delenv("CXX", raising=False)
    given = [str(setting / "run.yaml"), f"runs={setting}/refused", setting_of]
    errors = []
    for more in (["--dry-run"], []):
        assert main(["run", *given, *more]) == 2
        printed = capsys.readouterr()
        assert ("example passes" in printed.out) == bool(more)  # the plan is shown first
        errors.append(printed.err.strip().splitlines()[-1])
    assert errors[0] == errors[1]
    assert said in errors[0]
    assert not (setting / "refused/tiny/adapters").exists()


def test_an_adapter_that_is_given_may_be_on_other_modules(setting):
    shapes = shapes_of(str(setting / "backbone"), None, dtype="float32", device="cpu", revision=None)
    assert shapes is not None
    with pytest.raises(GraspError, match="cannot place LoRA"):
        shapes_of(
            str(setting / "backbone"),
            Lora(target_modules=("x",)),
            dtype="float32",
            device="cpu",
            revision=None,
        )


def test_a_connection_that_breaks_elsewhere_is_not_the_model_hubs():
    broken = ConnectionResetError(104, "Connection reset by peer")
    assert advice(broken) is None
    assert "model hub cannot be reached" in advice(broken, asked_hub=True)


def test_a_training_goes_on_only_with_rows_that_are_written_alike(tmp_path):
    trainer = trainer_for(tmp_path)
    for callback in (GraspCallback, RatioCurveCallback):
        assert "prompt_format" not in callback(trainer, MICRO_DEV).settings()  # as older checkpoints have it
    turns = [{"role": "user", "content": "a"}]
    row = {"prompt": turns, "completion": [{"role": "assistant", "content": "b"}]}
    one, other = (as_examples("dev", [{**row, "chat_template_kwargs": {"x": n}}])[0] for n in (1, 2))
    assert one != other


def test_a_chat_is_other_rows_to_a_callback(tmp_path):
    trainer = trainer_for(tmp_path)
    trainer.processing_class = tiny_chat_tokenizer()
    for callback in (GraspCallback, RatioCurveCallback):
        assert callback(trainer, MICRO_DEV, prompt_format="chat").settings()["prompt_format"] == "chat"


def test_layers_that_are_computed_twice_are_in_no_stages_key():
    plain, twice = (fingerprint(Training(gradient_checkpointing=on), None) for on in (False, True))
    assert plain == twice
    assert fingerprint(Training(torch_compile=True), None) != plain


def test_the_order_of_a_pattern_is_in_no_stages_key():
    one, other = (Lora(rank_pattern=dict(p)) for p in ([("q", 2), ("v", 3)], [("v", 3), ("q", 2)]))
    assert list(one.rank_pattern) == list(other.rank_pattern) == ["q", "v"]


def test_an_optimizer_without_entries_of_its_own_is_refused_where_they_are_to_be_cleared():
    weight = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = torch.optim.SGD([weight])
    optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg_sq_row": torch.rand(4)}
    with pytest.raises(GraspError, match=r"'exp_avg_sq_row' of shape \(4,\) entry by entry: use"):
        reset_optimizer_state(optimizer, [weight], [torch.ones(4, 3, dtype=torch.bool)])
    optimizer.state[weight] = {"step": torch.tensor(3.0), "exp_avg": torch.rand(4, 3)}
    reset_optimizer_state(optimizer, [weight], [torch.ones(4, 3, dtype=torch.bool)])
    assert optimizer.state[weight]["exp_avg"].count_nonzero() == 0
    assert optimizer.state[weight]["step"] == 3.0


def test_a_format_that_is_none_is_refused():
    with pytest.raises(GraspError, match="prompt_format"):
        Limits(prompt_format="Chat")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.content }}{% endfor %}",
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    ],
)
def test_a_template_that_does_not_write_each_turn_once_is_refused(template):
    tokenizer = tiny_chat_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(GraspError, match="does not write prompt and answer once each: take prompt_format"):
        check_chat(tokenizer)


def test_what_code_without_grasp_would_leave_out_before_an_answer_is_said(tmp_path, caplog):
    write_setting(tmp_path, SMALL, tokenizer=tiny_chat_tokenizer())
    for opening, count in (("", 0), ("<final>", 1)):
        caplog.clear()
        file = tmp_path / "backbone/chat_template.jinja"
        file.write_text(
            "{% for m in messages %}<{{ m.role }}>"
            f"{{% if m.role == 'assistant' %}}{opening}{{% endif %}}{{{{ m.content }}}}<end>{{% endfor %}}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
        x = start(tmp_path / "run.yaml", {"prompt_format": "chat"})
        with caplog.at_level(logging.WARNING):
            experiment.check_ready(x, *reversed(experiment._plans([x], force=False)[0]))
        said = [one.getMessage() for one in caplog.records if "generation prompt" in one.getMessage()]
        assert len(said) == count
        assert all("'<final>'" in one for one in said)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("text", "dev row 0 is str, not a mapping"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
            "dev row 0 ends in no message of the assistant with a content",
        ),
    ],
)
def test_a_row_that_is_none_is_named(row, said):
    with pytest.raises(GraspError, match=said):
        as_examples("dev", [row])


def test_an_eval_dataset_without_rows_is_named(tmp_path):
    trainer = trainer_for(tmp_path)
    trainer.eval_dataset = []
    with pytest.raises(GraspError, match="eval_dataset has no rows"):
        evaluation_loss(trainer, "give rows")


def test_a_refit_keeps_the_rates_of_the_schedule_that_was_chosen_from(tmp_path):
    """Four epochs of a cosine, of which the second was best: not a whole cosine in two epochs."""
    DevLosses([3.0, 2.0, 1.0, 1.5, 2.5], 2).write(tmp_path)
    asked = Training(lr_scheduler="cosine", epochs=4, batch_size=2, learning_rate=1e-2)
    training, rates = as_chosen(asked, tmp_path), Rates()
    assert training.epochs == 2
    trainer = build_trainer(adapted(), TOKENIZER, ROWS, training, 42, tmp_path, "")
    trainer.add_callback(rates)
    trainer.train()
    assert rates.seen == pytest.approx([5e-3 * (1 + math.cos(math.pi * n / 12)) for n in range(6)])
    decayed = as_chosen(Training(epochs=4), tmp_path)
    assert decayed == Training(epochs=2)


def test_a_warmup_that_is_longer_than_its_training_is_said(tmp_path, caplog):
    write_setting(tmp_path, SMALL)
    given = {"lr_scheduler": "linear", "warmup": 500, "max_steps": 4}
    with caplog.at_level(logging.INFO):
        run(tmp_path / "run.yaml", runs=tmp_path / "runs", methods=["lora_target"], training=given)
    assert "warmup takes 500 steps, and a training has 4" in caplog.text
