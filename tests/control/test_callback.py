"""The callbacks inside `Trainer` and TRL's `SFTTrainer`."""

import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer
from transformers import Trainer, TrainerCallback, TrainingArguments

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.controller import GraspController
from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.merge_prune import MergePruneCallback
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.control.units import adapter_parameters
from grasp_lora.errors import GraspError
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.loss import TargetLoss, evaluation_mode
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.merging import Part
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
            disable_tqdm=True,
            **{"save_strategy": "no", **arguments, **options},
        ),
        train_dataset=[encode(e, TOKENIZER, Limits(40, 8)) for e in EXAMPLES],
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
    batch = trainer.data_collator([encode(EXAMPLES[0], TOKENIZER, Limits(40, 8))])
    if grasp.result.rounds[0].committed:
        grasp.controller.masked.commit(0.0)
    loss = trainer.model.eval()(**batch).loss.item()
    assert -grasp.result.rounds[0].base_reward == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "has no eval_dataset .* give GraspCallback micro_dev rows, or a reward function$"),
        (
            {"micro_dev": MICRO_DEV, "reward": lambda _: 0.0},
            "^give GraspCallback either micro_dev .* or",
        ),
    ],
)
def test_needs_one_reward(tmp_path, given, said):
    with pytest.raises(GraspError, match=said):
        GraspCallback(trainer_for(tmp_path), **given)


@pytest.mark.parametrize(
    ("row", "has"),
    [
        ({"text": ""}, r"text \(str\)"),
        ({"prompt": ["a"], "completion": ["b"]}, r"prompt \(list\), completion \(list\)"),
        ({}, "nothing"),
    ],
)
def test_names_a_bad_micro_dev_row(tmp_path, row, has):
    with pytest.raises(GraspError, match=f"row 1 needs `prompt` and .*, has {has}"):
        GraspCallback(trainer_for(tmp_path), [MICRO_DEV[0], row])


def test_a_trainer_without_a_tokenizer_says_so(tmp_path):
    trainer = trainer_for(tmp_path)
    trainer.processing_class = None
    said = (
        "^the Trainer has no tokenizer to encode the micro-dev rows with: give it one as processing_class, "
        "or give GraspCallback a reward function$"
    )
    with pytest.raises(GraspError, match=said):
        GraspCallback(trainer, MICRO_DEV)
    GraspCallback(trainer, reward=lambda _: 0.0)


@pytest.mark.parametrize("logging_steps", [1, 2, 3])
def test_a_round_takes_no_log_of_the_loss(tmp_path, logging_steps):
    trainer = trainer_for(tmp_path, logging_steps=logging_steps)
    trainer.add_callback(GraspCallback(trainer, MICRO_DEV, every=2))
    trainer.train()
    steps = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    assert steps == list(range(logging_steps, 7, logging_steps))


class _Breaks(TrainerCallback):
    """Makes the model's loss NaN from a step on."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, model, **_):
        if state.global_step == self.step - 1:
            with torch.no_grad():
                next(p for p in model.parameters() if not p.requires_grad).fill_(torch.nan)


@pytest.mark.parametrize(("breaks", "seen"), [(10, 10), (12, 12)])  # at a round, which logs too; at the end
def test_a_loss_that_is_not_finite_ends_a_learning_run(tmp_path, breaks, seen):
    model = adapted()
    encoded = [encode(e, TOKENIZER, Limits(40)) for e in EXAMPLES]
    trainer = build_trainer(model, TOKENIZER, encoded, Training(max_steps=12), 42, tmp_path, "test")
    trainer.add_callback(GraspCallback(trainer, reward=lambda _: 0.0, every=10))
    trainer.add_callback(_Breaks(breaks))
    with pytest.raises(GraspError, match=f"training loss at step {seen} is nan"):
        trainer.train()


@pytest.mark.parametrize("other", [FixedMaskCallback(0.5), MergePruneCallback(0.5, importance="gradient")])
def test_two_callbacks_that_prune_are_refused(tmp_path, other):
    trainer = trainer_for(tmp_path)
    trainer.add_callback(GraspCallback(trainer, MICRO_DEV))
    trainer.add_callback(other)
    with pytest.raises(GraspError, match=f"has a {type(other).__name__} beside") as error:
        trainer.train()
    assert str(error.value).endswith(
        "prune the adapter: remove one. A final run at the learned ratio is a training of its own"
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def untrained():
    torch.manual_seed(0)
    return get_peft_model(
        tiny_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )


@pytest.mark.hostile("p_min = p_max", "trains at that ratio")
def test_a_new_adapter_trains_and_is_pruned_from_the_first_round_on(tmp_path, caplog):
    trainer = trainer_for(tmp_path, untrained(), max_steps=8, logging_steps=1, learning_rate=1e-1)
    policy = RatioPolicy(p_min=0.5, p_init=0.5, p_max=0.5)
    grasp = GraspCallback(trainer, MICRO_DEV, policy=policy, every=4)
    trainer.add_callback(grasp)
    trainer.train()
    seen = losses(trainer)
    assert len(set(seen)) == len(seen)
    assert "not pruned to p = 0.500 yet" in caplog.text
    # the first probe saw B pruned too, and what it saw is what was committed
    assert grasp.result.rounds[0].base_reward == pytest.approx(
        grasp.result.rounds[0].base_reward + grasp.result.rounds[0].probes[0].reward, rel=1e-6
    )
    assert set(grasp.controller.masked.pruned_shares().values()) == {0.5}


def test_a_fixed_mask_waits_or_refuses_where_nothing_was_trained(tmp_path):
    trainer = trainer_for(tmp_path, untrained())
    trainer.add_callback(FixedMaskCallback(0.5))
    said = (
        r"^the adapter does nothing yet \(its B, or its A, is all zeros\), so its magnitudes do not say what "
        "to prune: load a trained adapter, or give after_steps, the steps to train it before$"
    )
    with pytest.raises(GraspError, match=said):
        trainer.train()
    trainer = trainer_for(tmp_path, untrained(), logging_steps=1)
    fixed = FixedMaskCallback(0.5, after_steps=3)
    trainer.add_callback(fixed)
    trainer.train()
    assert set(fixed.masked.pruned_shares().values()) == {0.5}
    for name, mask in fixed.masked.masks().items():
        assert (dict(trainer.model.named_parameters())[name][~mask] == 0).all()
    trainer = trainer_for(tmp_path, untrained())
    trainer.add_callback(FixedMaskCallback(0.5, after_steps=6))
    with pytest.raises(GraspError, match="after 6 steps, and training takes 6"):
        trainer.train()
    trainer = trainer_for(tmp_path, untrained())
    trainer.add_callback(FixedMaskCallback(0.0))  # nothing to prune: nothing to refuse
    trainer.train()


def test_what_a_fixed_mask_took_is_of_the_moment_when_it_was_built(tmp_path):
    trainer = trainer_for(tmp_path, adapted())
    masked = MaskedAdapter(adapter_parameters(trainer.model))
    importance = masked.importances()
    masked.commit(0.5)
    norms = masked.pruned_norms()
    masked.close()
    trainer = trainer_for(tmp_path, adapted())
    fixed = FixedMaskCallback(0.5)
    trainer.add_callback(fixed)
    trainer.train()
    assert (fixed.importance, fixed.norms) == (importance, norms)
    assert fixed.masked.pruned_norms() != norms  # what was kept was trained since


def test_a_fixed_mask_is_built_in_a_run_that_goes_on_after_its_steps(tmp_path):
    def trainer(**options):
        made = trainer_for(tmp_path, adapted(), **options)
        fixed = FixedMaskCallback(0.5, after_steps=2)
        made.add_callback(fixed)
        return made, fixed

    first, _ = trainer(save_strategy="steps", save_steps=3, max_steps=3)
    first.train()
    second, fixed = trainer()
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert set(fixed.masked.pruned_shares().values()) == {0.5}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"p": 1.1}, "a prune ratio is between 0 and 1, got 1.1"),
        ({"p": 0.5, "after_steps": -1}, "after_steps must be at least 0, got -1"),
        ({"p": 0.5, "unit": "tensors"}, "unit is one of adapter, tensor; got 'tensors'"),
    ],
)
def test_bad_arguments_of_a_fixed_mask(arguments, said):
    with pytest.raises(GraspError, match=f"^{said}$"):
        FixedMaskCallback(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"unit": "Adapter"}, "unit is one of adapter, tensor; got 'Adapter'"),
        ({"importance_refresh": "step"}, "importance_refresh is one of round, start; got 'step'"),
        ({"select": "mean"}, "select is one of best, last, policy_mean, curve, sparsest; got 'mean'"),
        ({"every": 0}, "every must be at least 1, got 0"),
    ],
)
def test_a_choice_that_is_none_is_refused(tmp_path, arguments, said):
    trainer = trainer_for(tmp_path)
    trainer.add_callback(GraspCallback(trainer, MICRO_DEV, **arguments))
    with pytest.raises(GraspError, match=f"^{said}$"):
        trainer.train()


def test_half_a_micro_dev_row_is_refused_and_a_row_has_its_number(tmp_path):
    rows = [MICRO_DEV[0], {"prompt": "say abc:", "completion": 3}]
    with pytest.raises(GraspError, match=r"^micro-dev row 1 needs .* prompt \(str\), completion \(int\)$"):
        GraspCallback(trainer_for(tmp_path), rows)
    long = [MICRO_DEV[0], {"prompt": "say " + "abc" * 40, "completion": "abc"}]
    with pytest.raises(GraspError, match=r"^example 1: its prompt has"):
        GraspCallback(trainer_for(tmp_path), long, max_length=30)


def test_micro_dev_batches_keep_to_their_limits(tmp_path):
    trainer = trainer_for(tmp_path, max_steps=1)
    answers = [{"prompt": "say:", "completion": "abcdefgh"}] * 3
    seen = []
    for limits in ({}, {"max_new_tokens": 2}, {"token_budget": 1}):
        before = GraspCallback(trainer, answers, every=1, **limits)
        batches = []
        hook = trainer.model.register_forward_pre_hook(
            lambda _, __, batch, batches=batches: batches.append(batch["input_ids"].shape), with_kwargs=True
        )
        before._reward(trainer.model.eval())
        hook.remove()
        seen.append(batches)
    (whole,), (cut,), alone = seen
    assert whole[0] == cut[0] == 3
    assert cut[1] == whole[1] - 7  # two of eight letters and end-of-text
    assert [rows for rows, _ in alone] == [1, 1, 1]


@pytest.mark.parametrize("name", ["grasp", "fixed", "merge_prune"])
def test_parts_that_are_not_there_are_an_error(tmp_path, name):
    make = {
        "grasp": lambda parts: GraspCallback(trainer_for(tmp_path), MICRO_DEV, parts=parts),
        "fixed": lambda parts: FixedMaskCallback(0.5, parts=parts),
        "merge_prune": lambda parts: MergePruneCallback(0.5, importance="gradient", parts=parts),
    }[name]
    for folder in (tmp_path / "mergd", tmp_path):
        with pytest.raises(GraspError, match=r"no parts\.json"):
            make(str(folder))


def merged_parts():
    """Rows 0 and 1 of every site from one adapter, 2 and 3 from another."""
    sites = [f"model.layers.{i}.self_attn.{m}" for i in (0, 1) for m in ("q_proj", "v_proj")]
    return {site: (Part("en", 0, 2), Part("ar", 2, 4)) for site in sites}


def grasp_run(tmp_path, **options):
    trainer = trainer_for(tmp_path, max_steps=4)
    policy = RatioPolicy(p_min=0.3, p_max=0.7, p_init=0.5, seed=1)
    grasp = GraspCallback(trainer, MICRO_DEV, policy=policy, every=2, **options)
    trainer.add_callback(grasp)
    trainer.train()
    return grasp


def test_what_the_callback_is_given_reaches_the_masks(tmp_path):
    """Each option against what the adapter's own values say."""
    names = list(grasp_run(tmp_path, parts=merged_parts()).controller.masked.pruned_shares())
    assert names[:2] == [f"model.layers.0.self_attn.q_proj.lora_A[{n}]" for n in ("en", "ar")]
    whole = grasp_run(tmp_path, parts=merged_parts(), unit="tensor").controller.masked
    assert next(iter(whole.pruned_shares())) == "model.layers.0.self_attn.q_proj.lora_A"
    assert len(whole.pruned_shares()) * 2 == len(names)
    start = grasp_run(tmp_path, importance_refresh="start").controller.masked
    before = dict(adapted().named_parameters())
    fresh = dict(grasp_run(tmp_path).controller.masked.masks())
    by_start = {}
    for name, mask in start.masks().items():
        cut = before[name].abs().flatten().sort().values[int(start.p * before[name].numel()) - 1]
        by_start[name] = before[name].abs() > cut
        assert torch.equal(mask, by_start[name])
    assert any(not torch.equal(fresh[name], by_start[name]) for name in fresh)


def test_the_callback_selects_as_told(tmp_path):
    assert (last := grasp_run(tmp_path, select="last").result).best_ratio == last.rounds[-1].p_next
    assert (mean := grasp_run(tmp_path, select="policy_mean").result).best_ratio == mean.rounds[-1].mu_next
    assert grasp_run(tmp_path).result.best_reward is not None


def test_fixed_mask_units_are_those_given(tmp_path):
    for options, length in (
        ({"parts": merged_parts()}, 16),
        ({"parts": merged_parts(), "unit": "tensor"}, 8),
    ):
        trainer = trainer_for(tmp_path, max_steps=1)
        trainer.add_callback(fixed := FixedMaskCallback(0.5, **options))
        trainer.train()
        assert len(fixed.masked.pruned_shares()) == length


class _Norms(TrainerCallback):
    """Norm of the kept entries' gradients as the optimizer sees them, step by step."""

    def __init__(self, fixed):
        self.fixed, self.norms = fixed, []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        parameters, masks = dict(model.named_parameters()), self.fixed.masked.masks()
        self.norms.append(torch.cat([parameters[n].grad[mask] for n, mask in masks.items()]).norm().item())


def test_clipping_sees_only_what_is_trained(tmp_path):
    trainer = trainer_for(tmp_path, max_grad_norm=0.01)
    trainer.add_callback(fixed := FixedMaskCallback(0.8))
    trainer.add_callback(norms := _Norms(fixed))
    trainer.train()
    # were the pruned entries' gradients counted, what clipping leaves of the others would be shorter
    assert norms.norms == pytest.approx([0.01] * 6, rel=1e-3)


def test_without_clipping_masked_gradients_change_nothing(tmp_path):
    ends = []
    for hooked in (True, False):
        trainer = trainer_for(tmp_path, max_grad_norm=0.0)
        trainer.add_callback(fixed := FixedMaskCallback(0.5))
        if not hooked:
            trainer.add_callback(_Unhook(fixed))
        trainer.train()
        ends.append([p.detach().clone() for p in trainer.model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


class _Unhook(TrainerCallback):
    def __init__(self, fixed):
        self.fixed = fixed

    def on_train_begin(self, args, state, control, **_):
        self.fixed.masked.close()


def test_gradients_are_whole_after_training(tmp_path):
    for callback in (FixedMaskCallback(0.5), None):
        trainer = trainer_for(tmp_path)
        callback = callback or GraspCallback(trainer, MICRO_DEV, every=2)
        trainer.add_callback(callback)
        trainer.train()
        factor = next(p for p in trainer.model.parameters() if p.requires_grad)
        assert (factor == 0).any()
        factor.grad = None
        factor.square().sum().add(factor.sum()).backward()
        assert (factor.grad[factor == 0] == 1).all()


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


@pytest.mark.parametrize("reset", [True, False])
def test_a_commit_reaches_the_trainers_optimizer_unless_told_not_to(tmp_path, reset):
    trainer = trainer_for(tmp_path, max_steps=4, optim="adamw_torch")
    policy = RatioPolicy(p_min=0.1, p_init=0.1, d_max=0.5, candidates=1, seed=0)
    up = iter([-1.0, 0.0, -1.0, 0.0])  # the candidate is always better
    grasp = GraspCallback(trainer, reward=lambda _: next(up), policy=policy, every=2, reset_moments=reset)
    trainer.add_callback(grasp)
    trainer.train()
    last = grasp.result.rounds[-1]
    assert last.committed
    assert last.mask_changed > 0
    controller = grasp.controller
    parameters = dict(zip(controller.masked.names, controller.masked.parameters, strict=True))
    pruned = [
        trainer.optimizer.state[parameters[name]]["exp_avg"][~mask]
        for name, mask in controller.masked.masks().items()
    ]
    assert all((moment == 0).all() for moment in pruned) == reset
    logged = [entry for entry in trainer.state.log_history if "grasp/mask_changed" in entry]
    assert [entry["grasp/mask_changed"] for entry in logged] == [r.mask_changed for r in grasp.result.rounds]
    assert [entry["grasp/mask_reverted"] for entry in logged] == [
        r.mask_reverted for r in grasp.result.rounds
    ]


def test_there_is_no_result_before_training(tmp_path):
    with pytest.raises(GraspError, match="no training has begun"):
        _ = GraspCallback(trainer_for(tmp_path), MICRO_DEV).result
    assert FixedMaskCallback(0.5).masked is None


def test_the_mask_is_built_right_after_the_steps_that_it_waits_for(tmp_path):
    trainer, shares = trainer_for(tmp_path), []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            weights = [p for n, p in model.named_parameters() if "lora_" in n]
            zeros = sum(int((w == 0).sum()) for w in weights)
            shares.append(zeros / sum(w.numel() for w in weights))

    trainer.add_callback(FixedMaskCallback(0.5, after_steps=3))
    trainer.add_callback(Watch())
    trainer.train()
    assert shares == [0.0, 0.0, *[0.5] * 4]


def test_a_probes_error_is_of_its_examples(tmp_path):
    """Against the rewards that are kept, differences taken by hand."""
    folder = tmp_path / "log"
    grasp = grasp_run(tmp_path, folder=folder)
    kept = [json.loads(line) for line in (folder / "probes.jsonl").read_text().splitlines()]
    for made in grasp.result.rounds:
        rewards = {one["p"]: one["rewards"] for one in kept if one["round"] == made.round}
        base = rewards[made.p_curr]
        assert sum(base) / 2 == pytest.approx(made.base_reward, rel=1e-6)
        for probe in made.probes:
            first, second = (a - b for a, b in zip(rewards[probe.p], base, strict=True))
            assert probe.reward == pytest.approx((first + second) / 2, abs=1e-7)
            assert probe.standard_error == pytest.approx(abs(first - second) / 2, abs=1e-7)


def test_a_reward_of_one_number_has_no_errors(tmp_path):
    trainer = trainer_for(tmp_path)
    grasp = GraspCallback(trainer, reward=lambda model: -1.0, every=3, folder=tmp_path / "log")
    trainer.add_callback(grasp)
    trainer.train()
    assert {probe.standard_error for made in grasp.result.rounds for probe in made.probes} == {None}
    assert not (tmp_path / "log/probes.jsonl").exists()


def test_one_look_at_dev_after_the_last_step(tmp_path, caplog):
    """The same as masking the trained adapter by hand; and the policy never hears of it."""
    dev = [{"prompt": f"say {text}:", "completion": text} for text in ("fgh", "xy", "q")]
    plain = grasp_run(tmp_path / "plain")
    caplog.clear()
    grasp = grasp_run(tmp_path / "looked", dev=dev)
    assert plain.look is None
    assert [r.to_json() for r in plain.result.rounds] == [r.to_json() for r in grasp.result.rounds]
    look, p = grasp.look, grasp.result.best_ratio
    assert look.p == p
    assert set(look.dev) == set(look.micro_dev) == {0.0, p, max(0.3, p - 0.1), min(0.7, p + 0.1)}
    masked, model = grasp.controller.masked, grasp.trainer.model
    examples = [Example(str(i), row["prompt"], row["completion"]) for i, row in enumerate(dev)]
    loss = TargetLoss(examples, TOKENIZER, model)
    with masked.probing([p]) as apply:
        apply(0)
        with evaluation_mode(model):
            torch.testing.assert_close(torch.tensor(look.dev[p]), -loss.per_example(model).cpu())
    assert "from 6 probes, fewer than 30: train for longer" in caplog.text
    assert grasp.warnings == [record.getMessage() for record in caplog.records]


def test_rows_of_one_group_are_one_cluster(tmp_path):
    """Both micro-dev rows of one passage: nothing is known of a probe's error; nor of two dev rows'."""
    grouped = [row | {"group": "a"} for row in MICRO_DEV]
    dev = [{"prompt": f"say {text}:", "completion": text, "group": "b"} for text in ("fgh", "q")]
    trainer = trainer_for(tmp_path, max_steps=4)
    grasp = GraspCallback(trainer, grouped, every=2, dev=dev)
    trainer.add_callback(grasp)
    trainer.train()
    assert {probe.standard_error for made in grasp.result.rounds for probe in made.probes} == {None}
    assert grasp.look.detectable == float("inf")


def test_the_look_keeps_to_the_bounds(tmp_path):
    grasp = grasp_run(tmp_path, dev=[{"prompt": "say q:", "completion": "q"}])
    controller = grasp.controller
    controller.policy.d_max = 1.0
    assert set(controller.look(lambda model: 0.0).dev) == {0.0, grasp.result.best_ratio, 0.3, 0.7}


def test_a_look_that_fails_leaves_what_was_learned(tmp_path, caplog, monkeypatch):
    def fail(*_):
        raise GraspError("the reward at p = 0.3 is nan")

    monkeypatch.setattr(GraspController, "look", fail)
    grasp = grasp_run(tmp_path, dev=[{"prompt": "say q:", "completion": "q"}])
    assert grasp.look is None
    assert grasp.result.rounds
    assert "no look at dev: the reward at p = 0.3 is nan" in caplog.text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"micro_dev": []}, "micro_dev has no rows"),
        ({"micro_dev": MICRO_DEV, "dev": []}, "dev has no rows"),
        (
            {"micro_dev": MICRO_DEV, "dev": MICRO_DEV[1:]},
            "dev row 0 is in micro_dev, which chooses the ratio",
        ),
    ],
)
def test_rows_that_cannot_judge_are_refused(tmp_path, rows, said):
    with pytest.raises(GraspError, match=said):
        GraspCallback(trainer_for(tmp_path), **rows)


def test_names_a_bad_dev_row(tmp_path):
    with pytest.raises(GraspError, match=r"dev row 0 needs `prompt` and .*, has nothing"):
        GraspCallback(trainer_for(tmp_path), MICRO_DEV, dev=[{}])
