"""Successive halving over fixed masks: who goes on, and Trainers that pause and go on."""

import json
import math

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer
from transformers import Trainer, TrainingArguments

from grasp_lora import HalvingSearch
from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.control.halving import Halving, HalvingResult, Rung, rungs_of
from grasp_lora.control.noise import Z, detectable, paired_error
from grasp_lora.control.units import adapter_parameters
from grasp_lora.errors import GraspError
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.merging.parts import Part
from grasp_lora.ratios import PerAdapter
from grasp_lora.tasks.example import Example

TOKENIZER = tiny_tokenizer()
EXAMPLES = [Example(t, f"say {t}:", t) for t in ("abc", "bcd", "cde", "def", "efg", "fgh")]
HELD_OUT = [Example(t, f"say {t}:", t) for t in ("hij", "ijk", "jkl", "klm")]


def flat(**means):
    """Rows that all have the mean: no noise."""
    return {float(p.removeprefix("p").replace("_", ".")): [mean] * 3 for p, mean in means.items()}


def test_a_third_goes_on_by_hand():
    halving = Halving([0.0, 0.2, 0.4, 0.6], [2, 4])
    assert (halving.next_step, halving.alive) == (2, (0.0, 0.2, 0.4, 0.6))
    rung = halving.tell(flat(p0_0=2.0, p0_2=1.0, p0_4=1.5, p0_6=3.0))
    assert (rung.kept, rung.leader, halving.next_step) == ((0.2, 0.4), 0.2, 4)
    halving.tell(flat(p0_2=1.2, p0_4=1.1))
    assert halving.next_step is None
    assert halving.spent == 4 * 2 + 2 * 2
    found = halving.result
    assert (found.best_ratio, found.close, len(found.rungs)) == (0.4, (0.4,), 2)


def test_of_equals_the_first_candidate_stays():
    halving = Halving([0.5, 0.1, 0.3], [1])
    halving.tell({p: [1.0, 2.0] for p in (0.1, 0.3, 0.5)})
    assert halving.result.best_ratio == 0.5
    assert halving.result.close == (0.1, 0.3, 0.5)


def test_with_one_candidate_nothing_is_compared():
    halving = Halving([0.3], [1, 2])
    assert halving.next_step is None
    assert halving.result == HalvingResult(0.3, (), 0.01)
    assert (halving.result.close, halving.result.rows_needed, halving.result.doubt) == ((0.3,), None, None)


def test_noise_keeps_whom_the_rows_cannot_tell_from_the_leader():
    # 0.2 differs from the leader by 0.5 on the mean with an error of 0.5; 0.4 by 1.0 with none.
    losses = {0.0: [1.0, 1.0], 0.2: [1.0, 2.0], 0.4: [2.0, 2.0]}
    assert paired_error(losses[0.2], losses[0.0]) == pytest.approx(0.5)
    assert Halving([0.0, 0.2, 0.4], [1, 2]).tell(losses).kept == (0.0,)
    assert Halving([0.0, 0.2, 0.4], [1, 2], keep="noise").tell(losses).kept == (0.0, 0.2)
    assert Halving([0.0, 0.2, 0.4], [1, 2], keep="noise", margin=1.0).tell(losses).kept == (0.0, 0.2, 0.4)


def test_the_last_rung_leaves_one_whatever_the_noise():
    halving = Halving([0.0, 0.2], [1], keep="noise")
    assert halving.tell({0.0: [1.0, 2.0], 0.2: [2.0, 1.1]}).kept == (0.0,) or halving.alive == (0.0,)
    assert len(halving.alive) == 1
    assert halving.result.close == (0.0, 0.2)


@pytest.mark.parametrize(("budget", "kept"), [(5, 2), (4, 1), (6, 3), (None, 3)])
def test_noise_keeps_as_many_as_the_budget_pays_for(budget, kept):
    # Three took a step each; up to the rung at 2 each that goes on takes another.
    halving = Halving([0.0, 0.2, 0.4], [1, 2], keep="noise", budget=budget)
    assert len(halving.tell({p: [1.0, 1.0] for p in (0.0, 0.2, 0.4)}).kept) == kept
    if halving.next_step is not None:
        halving.tell({p: [1.0, 1.0] for p in halving.alive})
    assert budget is None or halving.spent <= budget


LOSSES = st.lists(st.floats(0, 5), min_size=4, max_size=4)


@given(
    st.lists(LOSSES, min_size=2, max_size=9), st.sampled_from([2, 3, 9]), st.sampled_from(["rank", "noise"])
)
def test_the_leader_always_goes_on_and_ranks_are_kept_in_order(rows, factor, keep):
    losses = {i / 10: row for i, row in enumerate(rows)}
    halving = Halving(list(losses), [1, 2, 3], factor=factor, keep=keep)
    while halving.next_step is not None:
        alive = halving.alive
        rung = halving.tell({p: losses[p] for p in alive})
        assert rung.mean(rung.leader) == min(rung.mean(p) for p in alive)
        assert len(rung.kept) >= (1 if halving.next_step is None else math.ceil(len(alive) / factor))
        assert [rung.mean(p) for p in rung.kept] == sorted(rung.mean(p) for p in alive)[: len(rung.kept)]
    assert halving.result.best_ratio in halving.result.close


def test_rows_needed_by_hand():
    losses = {0.0: [1.0, 1.0, 1.0, 1.0], 0.2: [1.0, 1.2, 1.0, 1.2], 0.4: [9.0] * 4}
    rung = Rung(1, losses, (0.0,))
    error = paired_error(losses[0.2], losses[0.0])
    assert rung.rows_needed(0.1) == math.ceil(4 * (detectable(error) / 0.1) ** 2) > 4
    assert Rung(1, {0.0: [1.0], 0.2: [2.0]}, (0.0,)).rows_needed(0.1) is None  # one row has no error
    assert Rung(1, {0.0: [1.0, 2.0], 0.2: [1.0, 2.0]}, (0.0,)).rows_needed(0.1) == 1
    assert Rung(1, {0.0: [1.0, 2.0]}, (0.0,)).rows_needed(0.1) is None
    assert rung.is_close(0.2, 0.0) == (Z * error >= 0.1)


def test_clusters_count_as_one_and_only_the_rows_that_judge():
    groups = ["a", "a", "b", "b"]
    halving = Halving([0.0, 0.2, 0.4], [1, 2], groups=groups, factor=2)
    halving.tell({0.0: [1.0, 1.0], 0.2: [1.0, 2.0], 0.4: [3.0, 3.0]})
    assert halving.rungs[0].groups == ("a", "a")
    assert halving.rungs[0].behind(0.2) == (0.5, math.inf)  # one cluster
    halving.tell({0.0: [1.0, 1.0, 1.0, 1.0], 0.2: [2.0, 2.0, 1.0, 1.0]})
    assert halving.rungs[1].behind(0.2)[1] == paired_error([2, 2, 1, 1], [1, 1, 1, 1], groups)


def test_rungs_are_read_as_they_were_written(tmp_path):
    pairs = [PerAdapter((0.0, 1.0)), PerAdapter((0.5, 0.5)), 0.25]
    halving = Halving(pairs, [1, 3], groups=["x", "y"], factor=2)
    halving.tell({p: [1.0 + i, 1.5] for i, p in enumerate(pairs)})
    halving.tell({p: [0.1, 0.2] for p in halving.alive})
    halving.result.write(tmp_path)
    assert HalvingResult.read(tmp_path) == halving.result
    said = json.loads((tmp_path / "rungs.json").read_text())
    assert (said["best_ratio"], said["rungs"][0]["kept"]) == ("0.0, 1.0", ["0.0, 1.0", "0.5, 0.5"])
    for wrong in ("", "{}", json.dumps(said | {"rungs": [said["rungs"][0] | {"kept": ["0.9"]}]})):
        (tmp_path / "rungs.json").write_text(wrong)
        with pytest.raises(GraspError, match="cannot be read"):
            HalvingResult.read(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"candidates": []}, "candidates that are different"),
        ({"candidates": [0.1, 0.1]}, "candidates that are different"),
        ({"candidates": [0.33333, 0.33334]}, "different to four decimals"),
        ({"rungs": []}, "rungs that rise"),
        ({"rungs": [4, 2]}, "rungs that rise"),
        ({"rungs": [0, 2]}, "rungs that rise"),
        ({"factor": 1}, "factor must be at least 2"),
        ({"keep": "half"}, "keep"),
    ],
)
def test_what_cannot_be_halved_is_refused(given, said):
    with pytest.raises(GraspError, match=said):
        Halving(**{"candidates": [0.0, 0.2], "rungs": [1], **given})


def test_losses_of_others_or_of_no_number_are_refused():
    halving = Halving([0.0, 0.2], [1])
    for wrong in ({0.0: [1.0]}, {0.0: [1.0], 0.3: [1.0]}, {0.0: [1.0], 0.2: [1.0, 2.0]}):
        with pytest.raises(GraspError, match="others than it asked for"):
            halving.tell(wrong)
    with pytest.raises(GraspError, match="not a finite number"):
        halving.tell({0.0: [1.0], 0.2: [math.nan]})
    with pytest.raises(GraspError, match="the next comparison is due"):
        _ = halving.result


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (
            {0.0: [1.0, 2.0], 0.2: [1.0, 2.0]},
            "of p = 0, or within the noise of 2 rows; they are enough to show",
        ),
        ({0.0: [1.0, 2.0], 0.2: [1.2, 2.0]}, "about 1568 to show a difference of 0.01 four times in five"),
        ({0.0: [1.0], 0.2: [2.0]}, "how many would, they do not say"),
    ],
)
def test_the_doubt_in_words(losses, said):
    halving = Halving([0.0, 0.2], [3])
    halving.tell(losses)
    assert said in halving.result.doubt
    assert halving.result.doubt.startswith("after 3 steps 0.2 was")


def test_who_is_surely_behind_leaves_no_doubt():
    halving = Halving([0.0, 0.2], [3])
    halving.tell({0.0: [1.0, 1.0], 0.2: [2.0, 2.0]})
    assert halving.result.doubt is None


def test_rungs_of_a_training():
    assert rungs_of(50, (0.125, 0.25)) == (6, 12)
    assert rungs_of(3, (0.1, 0.6)) == (1, 2)
    assert rungs_of(4, (0.1, 0.2)) == (1, 1)
    assert rungs_of(2, (0.3, 0.9)) == (1, 1)  # a comparison after the last step would be a grid's
    with pytest.raises(GraspError, match="train for longer"):
        rungs_of(1, (0.5,))


class Trainers:
    """Makes Trainers around one model whose adapter was trained a little."""

    def __init__(self, folder, lora=(), **more):
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **{"lora_dropout": 0.2, **dict(lora)})
        torch.manual_seed(0)
        self.model = get_peft_model(tiny_llama(), config)
        with torch.no_grad():
            for parameter in adapter_parameters(self.model).values():
                parameter.normal_(std=0.1)
        self.start = {n: p.detach().clone() for n, p in adapter_parameters(self.model).items()}
        self.folder, self.more, self.made = folder, more, 0

    def __call__(self):
        self.made += 1
        arguments = TrainingArguments(
            str(self.folder), per_device_train_batch_size=1, num_train_epochs=2, learning_rate=1e-2,
            report_to="none", use_cpu=True, seed=3, disable_tqdm=True, remove_unused_columns=False,
            label_names=["labels"], **{"save_strategy": "no", "gradient_accumulation_steps": 2, **self.more},
        )  # fmt: skip
        rows = [encode(one, TOKENIZER, Limits()) for one in EXAMPLES]
        collator = TargetCollator(TOKENIZER, self.model)
        return Trainer(
            self.model, arguments, collator, train_dataset=rows, processing_class=TOKENIZER
        )  # 6 steps


def weights(model):
    return {n: p.detach().clone() for n, p in adapter_parameters(model).items()}


def alone(make, p, **given):
    """Trained at a ratio by itself."""
    with torch.no_grad():
        for name, parameter in adapter_parameters(make.model).items():
            parameter.copy_(make.start[name])
    trainer = make()
    trainer.add_callback(FixedMaskCallback(p, **given))
    trainer.train()
    return weights(make.model)


@pytest.mark.parametrize("rungs", [(2, 4), (1, 3), (3, 5)])  # an epoch has three steps
def test_the_survivor_is_trained_as_it_would_be_alone(tmp_path, rungs):
    make = Trainers(tmp_path)
    search = HalvingSearch(make, [0.0, 0.3, 0.6, 0.9], HELD_OUT, rungs=rungs, rows=(2, 4))
    found = search.run()
    made = weights(search.trainer.model)
    assert make.made == 4 + 2 + 1
    for name, weight in alone(make, found.best_ratio).items():
        assert torch.equal(made[name], weight)
    assert [len(rung.losses[found.best_ratio]) for rung in found.rungs] == [2, 4]
    assert not list(tmp_path.glob("*/checkpoint-*"))  # they were in a folder of their own


def test_what_judges_is_the_loss_under_the_mask_after_so_many_steps(tmp_path):
    make = Trainers(tmp_path)
    search = HalvingSearch(make, [0.2, 0.7], HELD_OUT, rungs=(2,), folder=tmp_path / "kept")
    rung = search.run().rungs[0]
    loss = TargetLoss(HELD_OUT, TOKENIZER, make.model)
    for p in (0.2, 0.7):
        short = Trainers(tmp_path, max_steps=6)

        class Look(FixedMaskCallback):
            def on_step_end(self, args, state, control, model=None, **_):
                super().on_step_end(args, state, control)
                if state.global_step == 2:
                    model.eval()
                    self.seen = loss.per_example(model).tolist()
                    model.train()

        look = Look(p)
        trainer = short()
        trainer.add_callback(look)
        trainer.train()
        assert rung.losses[p] == pytest.approx(look.seen, abs=1e-6)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"0.20", "0.70"}


def test_candidates_may_be_one_for_each_adapter(tmp_path):
    make = Trainers(tmp_path)
    sites = {n.split(".lora_")[0].removeprefix("base_model.model.") for n in make.start}
    parts = {site: (Part("en", 0, 2), Part("ar", 2, 4)) for site in sites}
    corners = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    found = HalvingSearch(make, corners, HELD_OUT, rungs=(1, 2), parts=parts).run()
    made = weights(make.model)
    assert found.best_ratio in [tuple(one) for one in corners]
    for name, weight in alone(make, found.best_ratio, parts=parts).items():
        assert torch.equal(made[name], weight)


def test_in_trls_trainer(tmp_path):
    from trl import SFTConfig, SFTTrainer

    make = Trainers(tmp_path)
    rows = Dataset.from_list([{"prompt": one.prompt, "completion": one.target} for one in EXAMPLES])

    def sft():
        arguments = SFTConfig(
            str(tmp_path / "sft"), max_steps=6, per_device_train_batch_size=1, report_to="none", use_cpu=True,
            bf16=False, learning_rate=1e-2, save_strategy="no", gradient_checkpointing=False,
            disable_tqdm=True,
        )  # fmt: skip
        return SFTTrainer(make.model, args=arguments, train_dataset=rows, processing_class=TOKENIZER)

    held_out = [{"prompt": one.prompt, "completion": one.target} for one in HELD_OUT]
    search = HalvingSearch(sft, [0.0, 0.4, 0.8], held_out, rungs=(2, 4))
    found = search.run()
    made = weights(make.model)
    with torch.no_grad():
        for name, parameter in adapter_parameters(make.model).items():
            parameter.copy_(make.start[name])
    trainer = sft()
    trainer.add_callback(FixedMaskCallback(found.best_ratio))
    trainer.train()
    for name, weight in made.items():
        assert torch.equal(weights(make.model)[name], weight)


def test_gradients_are_let_through_again(tmp_path):
    make = Trainers(tmp_path)
    HalvingSearch(make, [0.5, 0.9], HELD_OUT, rungs=(2,)).run()
    for parameter in adapter_parameters(make.model).values():
        parameter.grad = None
    batch = TargetCollator(TOKENIZER, make.model)([encode(EXAMPLES[0], TOKENIZER, Limits())])
    make.model.eval()
    make.model(**batch).loss.backward()
    for name, parameter in adapter_parameters(make.model).items():
        if ".lora_A." in name:
            assert (parameter.grad != 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("given", "more", "said"),
    [
        ({"rungs": (2, 9)}, {}, "training ended after 6 steps, before the rung at 9"),
        ({"rungs": (2,)}, {"save_only_model": True}, "need the optimizer"),
    ],
)
def test_trainings_that_cannot_pause_are_refused(tmp_path, given, more, said):
    search = HalvingSearch(Trainers(tmp_path, **more), [0.0, 0.3, 0.6, 0.9], HELD_OUT, **given)
    with pytest.raises(GraspError, match=said):
        search.run()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": (None, 2)}, "rows needs a number from 1 to 4 for each of 1 rungs"),
        ({"examples": []}, "examples has no rows"),
        ({"rows": (2, 2)}, "rows needs a number from 1 to 4 for each of 1 rungs"),
        ({"rows": (5,)}, "rows needs a number from 1 to 4"),
        ({"candidates": [0.1, 1.2]}, "between 0 and 1"),
        ({"candidates": [[1, 1]]}, "prune every adapter"),
        ({"examples": [{"prompt": "a"}]}, "example row 0 needs `prompt` and `completion`"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once(given, said):
    with pytest.raises(GraspError, match=said):
        HalvingSearch(print, **{"candidates": [0.1, 0.2], "examples": HELD_OUT, "rungs": (1,), **given})


def replayed(make, order, **given):
    """The losses at the rung by candidate, and the survivor's weights."""
    search = HalvingSearch(make, order, HELD_OUT, rungs=(2,), **given)
    rung = search.run().rungs[0]
    trained = {n: p.detach().clone() for n, p in make.model.named_parameters() if p.requires_grad}
    return dict(rung.losses), trained


@pytest.mark.parametrize("kind", ["plain", "dora", "head", "noise"])
def test_no_candidate_leaves_anything_to_the_next(tmp_path, kind):
    more = {"neftune_noise_alpha": 5.0} if kind == "noise" else {}
    lora = {"dora": {"use_dora": True}, "head": {"modules_to_save": ["lm_head"]}}.get(kind, {})
    made = [Trainers(tmp_path, lora=lora, **more) for _ in range(2)]
    one = replayed(made[0], [0.6, 0.3, 0.0])
    other = replayed(made[1], [0.0, 0.3, 0.6])
    assert one[0] == other[0]
    for name, weight in one[1].items():
        assert torch.equal(other[1][name], weight)
    assert not any(module._forward_hooks for module in made[0].model.modules())


def test_a_search_that_has_ended_is_not_made_again(tmp_path):
    make = Trainers(tmp_path)
    search = HalvingSearch(make, [0.2, 0.7], HELD_OUT, rungs=(2,), folder=tmp_path / "kept")
    found, count = search.run(), make.made
    assert search.run() == found
    assert make.made == count
    assert search.trainer.args.output_dir == str(tmp_path)
    with pytest.raises(GraspError, match="another search's checkpoints: give a new folder"):
        HalvingSearch(make, [0.2, 0.7], HELD_OUT, rungs=(2,), folder=tmp_path / "kept").run()


@pytest.mark.parametrize("folder", ["kept", None])
def test_a_search_that_was_interrupted_can_be_run_again(tmp_path, monkeypatch, folder):
    make = Trainers(tmp_path)
    where = None if folder is None else tmp_path / folder
    another = Trainers(tmp_path)
    expected = HalvingSearch(another, [0.2, 0.7, 0.5], HELD_OUT, rungs=(2, 4), factor=2).run()
    search = HalvingSearch(make, [0.2, 0.7, 0.5], HELD_OUT, rungs=(2, 4), factor=2, folder=where)
    train, calls = Trainer.train, []

    def breaks(trainer, *args, **given):
        calls.append(trainer)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return train(trainer, *args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", breaks)
        with pytest.raises(KeyboardInterrupt):
            search.run()
    assert search.run() == expected


def test_several_processes_need_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("grasp_lora.control.halving_search.world", lambda: 2)
    with pytest.raises(GraspError, match="give HalvingSearch a folder"):
        HalvingSearch(Trainers(tmp_path), [0.2, 0.7], HELD_OUT, rungs=(2,)).run()


def test_a_trainer_is_used_once(tmp_path):
    trainer = Trainers(tmp_path)()
    with pytest.raises(GraspError, match="made a Trainer that was used: it makes a new one each time"):
        HalvingSearch(lambda: trainer, [0.2, 0.7], HELD_OUT, rungs=(2,)).run()
