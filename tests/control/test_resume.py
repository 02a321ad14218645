"""A training that resumes is the training that was never ended: the same state before its first step, the
same bits after its last."""

import copy
import hashlib
import json
import random
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tests.control.test_callback import EXAMPLES, MICRO_DEV, TOKENIZER, adapted, trainer_for
from transformers import TrainerCallback

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.controller import GraspController
from grasp_lora.control.curve_callback import RatioCurveCallback
from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.control.merge_prune import MergePruneCallback
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.errors import GraspError
from grasp_lora.lm.epochs import AverageOfEpochs, BestEpoch
from grasp_lora.lm.loss import TargetLoss

DEV = TargetLoss(EXAMPLES[:3], TOKENIZER, adapted())


def grasp(trainer, folder):
    return GraspCallback(trainer, MICRO_DEV, every=2, folder=folder / "learn")


def untrained(trainer, folder):
    """A new adapter's B is all zeros: it waits to be pruned, and to be scored."""
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    return GraspCallback(
        trainer, MICRO_DEV, every=4, folder=folder / "learn", importance_refresh="start",
        policy=RatioPolicy(p_min=0.3, p_init=0.5),
    )  # fmt: skip


MAKERS = {
    "grasp, a new adapter": untrained,
    "grasp": grasp,
    "grasp, scored at the start": lambda trainer, folder: GraspCallback(
        trainer, MICRO_DEV, every=2, folder=folder / "learn", importance_refresh="start", reset_moments=False
    ),
    "fixed mask": lambda trainer, folder: FixedMaskCallback(0.4),
    "fixed mask after 6 steps": lambda trainer, folder: FixedMaskCallback(0.4, after_steps=6),
    "prune by inputs": lambda trainer, folder: MergePruneCallback(0.4, validation=DEV, rescore_every=4),
    "prune by inputs of training": lambda trainer, folder: MergePruneCallback(
        0.4, rescore="train_batch", rescore_every=4
    ),
    "prune by gradients to the start": lambda trainer, folder: MergePruneCallback(
        0.4, importance="gradient", value="init"
    ),
    "best epoch": lambda trainer, folder: BestEpoch(trainer, DEV, patience=9),
    "average of epochs": lambda trainer, folder: AverageOfEpochs(),
    "all ratios": lambda trainer, folder: RatioCurveCallback(trainer, MICRO_DEV, ratios=3, every_epoch=True),
}


class Oracle(TrainerCallback):
    """Photographs all that a step depends on, before each step."""

    def __init__(self, trainer, callback):
        self.trainer, self.callback, self.seen = trainer, callback, {}
        prepare = trainer._prepare_inputs

        def see_batch(inputs):
            self.seen[trainer.state.global_step].setdefault("batches", []).append(
                {k: v.clone() if torch.is_tensor(v) else v for k, v in inputs.items()}
            )
            return prepare(inputs)

        trainer._prepare_inputs = see_batch

    def on_step_begin(self, args, state, control, model, optimizer, lr_scheduler, **_):
        self.seen[state.global_step] = copy.deepcopy(
            {
                "weights": {n: bits(p) for n, p in model.named_parameters() if p.requires_grad},
                "optimizer": optimizer.state_dict()["state"],
                "rates": [group["lr"] for group in optimizer.param_groups],
                "scheduler": lr_scheduler.state_dict(),
                "python": random.getstate(),
                "numpy": np.random.get_state(),
                "torch": torch.random.get_rng_state(),
                "callback": self.callback.state_dict(),
            }
        )


def bits(parameter):
    return parameter.detach().clone().view(torch.int32)  # so that -0.0 is not 0.0


def same(a, b):
    if torch.is_tensor(a):
        return torch.equal(a, b) or (a.isnan().any() and torch.equal(a.isnan(), b.isnan()))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):  # the seconds in a log take one place more or less
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "timings.jsonl")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def run(folder, make, resume=False, **options):
    """Three steps are an epoch; a checkpoint follows each step."""
    model = adapted()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3  # LoRA's of the helper is off, and the random states shall matter
    options = {
        "max_steps": 13,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": 1,
    } | options
    trainer = trainer_for(folder, model, **options)
    callback = make(trainer, folder)
    oracle = Oracle(trainer, callback)
    trainer.add_callback(callback)
    trainer.add_callback(oracle)
    trainer.train(resume_from_checkpoint=resume or None)
    weights = {n: bits(p) for n, p in trainer.model.named_parameters() if p.requires_grad}
    return oracle, weights, callback


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    found = {}

    def of(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("whole")
            found[name] = (folder, *run(folder, MAKERS[name]))
        return found[name]

    return of


def ended_after(step, whole, folder):
    """The folder as if the process had ended later: with the logs of what was done beyond the checkpoint."""
    shutil.copytree(whole, folder)
    for later in folder.glob("checkpoint-*"):
        if int(later.name.split("-")[1]) > step:
            shutil.rmtree(later)
    return folder / f"checkpoint-{step}"


def differences(oracle, again, step):
    """What differs before the first resumed step, or before a later one."""
    first = {what for what, value in oracle.seen[step].items() if not same(value, again.seen[step][what])}
    return first or {s for s in range(step, 13) if not same(oracle.seen[s], again.seen[s])}


@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("name", MAKERS)
def test_a_resumed_training_is_the_same_training(uninterrupted, tmp_path, name, step):
    whole, oracle, weights, callback = uninterrupted(name)
    ended_after(step, whole, tmp_path / "run")
    again, found, resumed = run(tmp_path / "run", MAKERS[name], resume=True)
    assert min(again.seen) == step
    assert not differences(oracle, again, step)
    assert same(weights, found)
    for log in ("rounds.jsonl", "probes.jsonl"):
        if (whole / "learn" / log).exists():
            assert (whole / "learn" / log).read_bytes() == (tmp_path / "run" / "learn" / log).read_bytes()
    for value in ("losses", "epochs", "epoch"):
        assert getattr(callback, value, None) == getattr(resumed, value, None)


@pytest.mark.parametrize("name", ["grasp", "best epoch"])
def test_a_schedule_with_a_warmup_goes_on(tmp_path, name):
    schedule = {"lr_scheduler_type": "cosine", "warmup_steps": 5}
    oracle, weights, _ = run(tmp_path / "whole", MAKERS[name], **schedule)
    ended_after(3, tmp_path / "whole", tmp_path / "run")
    again, found, _ = run(tmp_path / "run", MAKERS[name], resume=True, **schedule)
    assert oracle.seen[2]["rates"] < oracle.seen[3]["rates"] > [0.0] != oracle.seen[12]["rates"]
    assert not differences(oracle, again, 3)
    assert same(weights, found)


def without(key):
    """What takes a value, or the tensors whose names begin so, out of what a callback saved."""

    def spoil(checkpoint):
        (marker,) = (checkpoint / "grasp_lora").glob("*.json")
        said = json.loads(marker.read_text())
        place, _, last = key.rpartition("/")
        values = said["values"][place] if place else said["values"]
        file = marker.with_suffix(".safetensors")
        tensors = load_file(file) if file.exists() else {}
        hit = [name for name in tensors if name.startswith(f"{key}.")]
        assert hit or last in values
        for name in hit:
            tensors[name] = torch.zeros_like(tensors[name])
        if last in values:
            values[last] = START.get(key, type(values[last])())
        if tensors:
            save_file(tensors, file)
            said["tensors"] = hashlib.sha256(file.read_bytes()).hexdigest()
        marker.write_text(json.dumps(said))

    return spoil


START = {
    "policy/p_curr": 0.4, "policy/mu": 0.4, "policy/sigma": 0.7 / 6,
    "policy/rng": np.random.default_rng(42).bit_generator.state,
    "draws/rng": np.random.default_rng(42).bit_generator.state,
}  # fmt: skip
"""What a policy begins with."""


def gone(name):
    return lambda checkpoint: (checkpoint / name).unlink()


LEFT_OUT = [
    *((name, gone("optimizer.pt")) for name in ("grasp", "best epoch")),
    *((name, gone("rng_state.pth")) for name in ("grasp", "best epoch")),
    *(("grasp", without(k)) for k in ("step", "rounds", "policy/rng", "policy/mu", "policy/sigma",
                                      "policy/p_curr", "dense", "mask", "moved", "logs/rounds.jsonl")),
    ("grasp, scored at the start", without("scored")),
    *(("fixed mask", without(key)) for key in ("built", "importance", "norms", "mask", "dense")),
    *(("prune by inputs", without(key)) for key in ("epochs", "score", "keep")),
    ("prune by inputs of training", without("squares")),
    *(("prune by gradients to the start", without(k)) for k in ("average", "uncertainty", "reset")),
    *(("best epoch", without(key)) for key in ("losses", "best")),
    *(("average of epochs", without(key)) for key in ("epochs", "1")),
    *(("all ratios", without(key)) for key in ("steps", "draws/rng", "epochs")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil"), LEFT_OUT, ids=map(str, range(len(LEFT_OUT))))
def test_the_comparison_notices_what_is_left_out(uninterrupted, tmp_path, name, spoil):
    whole, oracle, *_ = uninterrupted(name)
    checkpoint = ended_after(8, whole, tmp_path / "run")
    spoil(checkpoint)
    try:
        again, *_ = run(tmp_path / "run", MAKERS[name], resume=True)
    except GraspError:
        return
    assert differences(oracle, again, 8)


def test_the_schedule_is_noticed_too(uninterrupted, tmp_path):
    whole, oracle, *_ = uninterrupted("grasp")
    checkpoint = ended_after(8, whole, tmp_path / "run")
    state = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    torch.save({**state, "last_epoch": 0}, checkpoint / "scheduler.pt")
    again, *_ = run(tmp_path / "run", MAKERS["grasp"], resume=True)
    assert "scheduler" in differences(oracle, again, 8)


@pytest.mark.parametrize("name", MAKERS)
def test_a_checkpoint_without_the_state_is_refused(uninterrupted, tmp_path, name):
    whole, *_ = uninterrupted(name)
    checkpoint = ended_after(8, whole, tmp_path / "run")
    for marker in (checkpoint / "grasp_lora").glob("*.json"):
        marker.unlink()  # it is written last
    with pytest.raises(GraspError, match=r"checkpoint-8 holds no state of .*resume from checkpoint-7"):
        run(tmp_path / "run", MAKERS[name], resume=True)
    shutil.rmtree(tmp_path / "run")
    trainer = trainer_for(tmp_path / "run", save_strategy="steps", save_steps=2, max_steps=4)
    trainer.train()  # without the callback
    with pytest.raises(GraspError, match=r"checkpoint-4 holds no state of .*train from the start"):
        run(tmp_path / "run", MAKERS[name], resume=True)


def test_what_is_named_to_resume_from_has_the_whole_state(uninterrupted, tmp_path):
    whole, *_ = uninterrupted("grasp")
    tensors = ended_after(8, whole, tmp_path / "run") / "grasp_lora/GraspCallback.safetensors"
    tensors.unlink()
    with pytest.raises(GraspError, match=r"checkpoint-8 holds no state of .*resume from checkpoint-7, which"):
        run(tmp_path / "run", MAKERS["grasp"], resume=True)
    (tmp_path / "run/checkpoint-7/grasp_lora/GraspCallback.safetensors").write_bytes(b"")
    with pytest.raises(GraspError, match=r"checkpoint-8 holds no state of .*resume from checkpoint-6, which"):
        run(tmp_path / "run", MAKERS["grasp"], resume=True)


def test_a_checkpoint_from_elsewhere_is_named_by_hand(uninterrupted, tmp_path):
    whole, _, weights, _ = uninterrupted("grasp")
    checkpoint = ended_after(8, whole, tmp_path / "run").rename(tmp_path / "kept")
    with pytest.raises(GraspError, match=r"checkpoint-8 is not there: set `checkpoint` of the GraspCallback"):
        run(tmp_path / "run", MAKERS["grasp"], resume=str(checkpoint))

    def make(trainer, folder):
        callback = MAKERS["grasp"](trainer, folder)
        callback.checkpoint = checkpoint
        return callback

    _, found, _ = run(tmp_path / "run", make, resume=str(checkpoint))
    assert same(weights, found)


def test_the_state_of_other_weights_is_refused(uninterrupted, tmp_path):
    whole, *_ = uninterrupted("grasp")
    ended_after(8, whole, tmp_path / "run")
    other = ended_after(7, whole, tmp_path / "other")
    state = json.loads((tmp_path / "run/checkpoint-8/grasp_lora/GraspCallback.json").read_text())
    shutil.rmtree(tmp_path / "run/checkpoint-8/grasp_lora")
    shutil.copytree(other / "grasp_lora", tmp_path / "run/checkpoint-8/grasp_lora")
    with pytest.raises(GraspError, match=r"resumes at step 8, and .* holds GraspCallback at step 7"):
        run(tmp_path / "run", MAKERS["grasp"], resume=True)
    marker = tmp_path / "run/checkpoint-8/grasp_lora/GraspCallback.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "step": state["step"]}))
    with pytest.raises(GraspError, match=r"does not fit this training .*not that of the adapter's weights"):
        run(tmp_path / "run", MAKERS["grasp"], resume=True)


@pytest.mark.parametrize("name", ["grasp", "fixed mask", "prune by gradients to the start", "best epoch"])
def test_a_damaged_state_is_refused(uninterrupted, tmp_path, name):
    whole, *_ = uninterrupted(name)
    checkpoint = ended_after(8, whole, tmp_path / "run")
    (tensors,) = (checkpoint / "grasp_lora").glob("*.safetensors")
    sound = tensors.read_bytes()
    for damaged in (sound[:-1], sound[:-1] + bytes([sound[-1] ^ 1]), b""):
        tensors.write_bytes(damaged)
        with pytest.raises(GraspError, match="is damaged"):
            run(tmp_path / "run", MAKERS[name], resume=True)


def test_a_new_training_in_the_same_folder_begins_anew(uninterrupted, tmp_path):
    whole, _, weights, _ = uninterrupted("best epoch")
    shutil.copytree(whole, tmp_path / "run")
    again, found, _ = run(tmp_path / "run", MAKERS["best epoch"])
    assert same(weights, found)
    assert min(again.seen) == 0


def test_continues_in_trls_trainer(tmp_path):
    from trl import SFTConfig, SFTTrainer

    def train(folder, resume=False, steps=9):
        model = adapted()
        rows = Dataset.from_list([{"prompt": e.prompt, "completion": e.target} for e in EXAMPLES])
        arguments = SFTConfig(
            output_dir=str(folder), max_steps=9, learning_rate=1e-2, report_to="none", use_cpu=True,
            bf16=False, save_strategy="steps", save_steps=1, save_total_limit=2, disable_tqdm=True,
        )  # fmt: skip
        trainer = SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=TOKENIZER)
        callback = GraspCallback(trainer, MICRO_DEV, every=2, folder=folder / "learn")
        trainer.add_callback(callback)
        if steps < 9:
            trainer.add_callback(EndsAt(steps))
        trainer.train(resume_from_checkpoint=resume or None)
        return (folder / "learn/rounds.jsonl").read_bytes(), {
            n: bits(p) for n, p in trainer.model.named_parameters() if p.requires_grad
        }

    rounds, weights = train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="ended"):
        train(tmp_path / "run", steps=5)
    again, found = train(tmp_path / "run", resume=True)
    assert again == rounds
    assert same(weights, found)


class EndsAt(TrainerCallback):
    """As a process that is killed."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step > self.step:
            raise RuntimeError("ended")


def test_a_plain_loop_goes_on(tmp_path):
    loss = TargetLoss(EXAMPLES[:3], TOKENIZER, adapted())

    def begin(saved=None):
        model = adapted()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        if saved is not None:
            model.load_state_dict(saved["weights"], strict=False)
            optimizer.load_state_dict(saved["optimizer"])
        state = None if saved is None else saved["controller"]
        return model, optimizer, GraspController(
            model, optimizer, lambda m: -loss.per_example(m), every=2, folder=tmp_path, state=state
        )  # fmt: skip

    def go(model, optimizer, controller, steps):
        for step in steps:
            torch.manual_seed(step)
            batch = DEV.batches[step % len(DEV.batches)]
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            controller.after_optimizer_step()

    model, optimizer, controller = begin()
    go(model, optimizer, controller, range(5))
    torch.save(
        {
            "weights": {n: p for n, p in model.named_parameters() if p.requires_grad},
            "optimizer": optimizer.state_dict(),
            "controller": controller.state_dict(),
        },
        tmp_path / "saved.pt",
    )
    go(model, optimizer, controller, range(5, 9))
    rounds = (tmp_path / "rounds.jsonl").read_bytes()
    again = begin(torch.load(tmp_path / "saved.pt", weights_only=True))
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == 2
    go(*again, range(5, 9))
    assert (tmp_path / "rounds.jsonl").read_bytes() == rounds
    assert all(same(bits(a), bits(b)) for a, b in zip(model.parameters(), again[0].parameters(), strict=True))
    with pytest.raises(GraspError, match="the controller's state was made with every None, not 2"):
        begin({**torch.load(tmp_path / "saved.pt", weights_only=True), "controller": {"step": 5}})


OTHER = {
    "grasp": [
        lambda t, f: GraspCallback(t, MICRO_DEV, every=3, folder=f / "learn"),
        lambda t, f: GraspCallback(t, MICRO_DEV[:1], every=2, folder=f / "learn"),
        lambda t, f: GraspCallback(t, MICRO_DEV, every=2, unit="tensor", folder=f / "learn"),
        lambda t, f: GraspCallback(t, MICRO_DEV, every=2, policy=RatioPolicy(eta=0.1), folder=f / "learn"),
        lambda t, f: GraspCallback(t, MICRO_DEV, every=2, reset_moments=False, folder=f / "learn"),
    ],
    "fixed mask": [lambda t, f: FixedMaskCallback(0.6), lambda t, f: FixedMaskCallback(0.4, unit="tensor")],
    "all ratios": [
        lambda t, f: RatioCurveCallback(t, MICRO_DEV[:1], ratios=3, every_epoch=True),
        lambda t, f: RatioCurveCallback(t, MICRO_DEV, ratios=3),
        lambda t, f: RatioCurveCallback(t, MICRO_DEV, ratios=4, every_epoch=True),
        lambda t, f: RatioCurveCallback(t, MICRO_DEV, ratios=3, every_epoch=True, seed=1),
        lambda t, f: RatioCurveCallback(t, MICRO_DEV, ratios=3, every_epoch=True, p_max=0.9),
    ],
    "prune by inputs": [
        lambda t, f: MergePruneCallback(0.5, validation=DEV, rescore_every=4),
        lambda t, f: MergePruneCallback(0.4, validation=DEV, rescore_every=2),
        lambda t, f: MergePruneCallback(0.4, rescore="train_batch", rescore_every=4),
        lambda t, f: MergePruneCallback(0.4, validation=DEV, rescore_every=4, inputs="layer"),
    ],
}


@pytest.mark.parametrize(("name", "make"), [(name, make) for name in OTHER for make in OTHER[name]])
def test_other_settings_are_refused(uninterrupted, tmp_path, name, make):
    whole, *_ = uninterrupted(name)
    ended_after(8, whole, tmp_path / "run")
    with pytest.raises(GraspError, match=r"was made with ([\w.]+ .*, not .*|another \w+): resume w") as error:
        run(tmp_path / "run", make, resume=True)
    assert "another, not" not in str(error.value)  # what is too long to show


def test_without_the_optimizer_nothing_goes_on(tmp_path):
    run(tmp_path, MAKERS["grasp"], max_steps=4, save_only_model=True)
    with pytest.raises(GraspError, match="holds no state of GraspCallback"):
        run(tmp_path, MAKERS["grasp"], resume=True, max_steps=8)


def test_patience_that_was_out_stays_out(tmp_path):
    def make(trainer, folder):
        return BestEpoch(trainer, lambda model: float(round(trainer.state.epoch or 0)), patience=2)

    _, weights, callback = run(tmp_path, make)
    assert callback.losses == [0.0, 1.0, 2.0]
    _, found, again = run(tmp_path, make, resume=True)
    assert again.losses == [0.0, 1.0, 2.0]
    assert again.trainer.state.global_step == 7  # the Trainer takes one before it looks
    assert same(weights, found)


def test_rounds_that_a_power_cut_took_are_written_again(uninterrupted, tmp_path):
    whole, *_ = uninterrupted("grasp")
    ended_after(8, whole, tmp_path / "run")
    (tmp_path / "run/learn/rounds.jsonl").write_bytes(b"")
    run(tmp_path / "run", MAKERS["grasp"], resume=True)
    expected = (whole / "learn/rounds.jsonl").read_bytes()
    assert (tmp_path / "run/learn/rounds.jsonl").read_bytes() == expected
