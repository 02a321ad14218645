"""The callbacks inside `Trainer` and TRL's `SFTTrainer`."""

import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tests.tiny_models import tiny_llama
from tests.tiny_tokenizer import tiny_tokenizer
from transformers import Trainer, TrainingArguments

from grasp_lora.control.callback import FixedMaskCallback, GraspCallback
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.lm.batches import TargetCollator, encode
from grasp_lora.tasks.example import Example

TOKENIZER = tiny_tokenizer()
TEXTS = ["abc", "bcd", "cde", "def", "efg", "fgh"]
EXAMPLES = [Example(t, f"say {t}:", t) for t in TEXTS]
MICRO_DEV = [{"prompt": "say xyz:", "completion": "xyz"}, {"prompt": "say uvw:", "completion": "uvw"}]


def adapted():
    torch.manual_seed(0)
    model = get_peft_model(
        tiny_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def trainer_for(folder, model=None, **options):
    model = model or adapted()
    arguments = {"max_steps": 6, "learning_rate": 1e-2, "report_to": "none", "remove_unused_columns": False}
    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            **{**arguments, **options},
        ),
        train_dataset=[encode(e, TOKENIZER, max_length=40, max_new_tokens=8) for e in EXAMPLES],
        data_collator=TargetCollator(TOKENIZER, model),
        processing_class=TOKENIZER,
    )


def test_learns_while_training_and_logs_through_the_trainer(tmp_path):
    trainer = trainer_for(tmp_path, gradient_accumulation_steps=2, per_device_train_batch_size=1)
    grasp = GraspCallback(trainer, MICRO_DEV, every=2, folder=tmp_path / "learn")
    trainer.add_callback(grasp)
    trainer.train()
    assert [r.step for r in grasp.result.rounds] == [2, 4, 6]  # optimizer steps, not batches
    logged = [entry for entry in trainer.state.log_history if "grasp/p_curr" in entry]
    assert [entry["grasp/p_curr"] for entry in logged] == [r.p_next for r in grasp.result.rounds]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    assert {"grasp/mu", "grasp/sigma", "grasp/clamped_share", "grasp/round_seconds"} <= set(logged[0])
    assert len((tmp_path / "learn" / "rounds.jsonl").read_text().splitlines()) == 3


def test_tensorboard_shows_the_values(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    trainer = trainer_for(tmp_path, report_to="tensorboard")
    trainer.add_callback(GraspCallback(trainer, reward=lambda _: 0.0, every=3))
    trainer.train()
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [event.step for event in events.Scalars("train/grasp/sigma")] == [3, 6]


def test_reward_is_the_trainers_loss_on_the_micro_dev(tmp_path):
    trainer = trainer_for(tmp_path)
    grasp = GraspCallback(
        trainer, [Example("a", "say abc:", "abc")], every=6, policy=RatioPolicy(p_min=0.0, p_init=0.0)
    )
    trainer.add_callback(grasp)
    trainer.train()
    batch = trainer.data_collator([encode(EXAMPLES[0], TOKENIZER, max_length=40, max_new_tokens=8)])
    if grasp.result.rounds[0].committed:
        grasp.controller.masked.commit(0.0)
    loss = trainer.model.eval()(**batch).loss.item()
    assert -grasp.result.rounds[0].base_reward == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("given", [{}, {"micro_dev": MICRO_DEV, "reward": lambda _: 0.0}])
def test_needs_one_reward(tmp_path, given):
    with pytest.raises(ValueError, match="either micro_dev examples or a reward"):
        GraspCallback(trainer_for(tmp_path), **given)


def test_names_a_bad_micro_dev_row(tmp_path):
    with pytest.raises(ValueError, match="row 1 needs `prompt` and `completion` strings"):
        GraspCallback(trainer_for(tmp_path), [MICRO_DEV[0], {"text": "x"}])


def test_fixed_mask_holds_through_training(tmp_path):
    trainer = trainer_for(tmp_path)
    start = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    fixed = FixedMaskCallback(0.5)
    trainer.add_callback(fixed)
    trainer.train()
    for name, mask in fixed.masked.masks().items():
        now = dict(trainer.model.named_parameters())[name]
        assert (now[~mask] == 0).all()
        assert (now[mask] != start[name][mask]).any()
        assert start[name][mask].abs().min() > start[name][~mask].abs().max()


def test_inside_trl_sft_trainer(tmp_path):
    trl = pytest.importorskip("trl")
    rows = Dataset.from_list([{"prompt": e.prompt, "completion": e.target} for e in EXAMPLES])
    trainer = trl.SFTTrainer(
        model=tiny_llama(),
        args=trl.SFTConfig(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=2,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            max_length=40,
        ),
        train_dataset=rows,
        processing_class=TOKENIZER,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    grasp = GraspCallback(trainer, MICRO_DEV, every=2, folder=tmp_path)
    trainer.add_callback(grasp)
    trainer.train()
    assert len(grasp.result.rounds) == 2
    assert json.loads((tmp_path / "rounds.jsonl").read_text().splitlines()[0])["step"] == 2
    assert min(grasp.controller.masked.pruned_shares().values()) >= grasp.controller.masked.p - 0.05
