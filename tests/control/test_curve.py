"""One training of all ratios: draws, masks of one step, what is measured, and the callback in a Trainer."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from tests.control.test_callback import EXAMPLES, MICRO_DEV, TOKENIZER, adapted, trainer_for
from tests.control.test_resume import bits
from tests.helpers.models import tiny_llama
from torch import nn
from transformers import TrainerCallback

from grasp_lora import FixedMaskCallback, GraspCallback, RatioCurve, RatioCurveCallback, TargetLoss
from grasp_lora.control.draws import StratifiedRatios, ratios_between
from grasp_lora.control.measured import MeasuredCurve, Point
from grasp_lora.control.units import adapter_parameters
from grasp_lora.errors import GraspError
from grasp_lora.ratios import PerAdapter
from grasp_lora.tasks.example import Example

A = "base_model.model.layer.lora_A.default.weight"
B = "base_model.model.layer.lora_B.default.weight"
PARTS = {"layer": (SimpleNamespace(name="en", start=0, stop=1), SimpleNamespace(name="ar", start=1, stop=2))}


class Factors(nn.Module):
    """A LoRA adapter's factors by PEFT's names, and nothing else."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def named_parameters(self, *_, **__):
        yield from ((A, self.a), (B, self.b))


def factors():
    return Factors([[1.0, -4.0], [3.0, 2.0]], [[-8.0, 5.0], [6.0, 7.0]])


def sums(model):
    """Two examples' losses, by hand below."""
    return torch.stack([model.a.sum(), model.b.sum()]).detach()


def curve(model, **options):
    return RatioCurve(model, sums, **options)


# Draws


@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 99))
def test_each_stratum_is_drawn_once_in_so_many(strata, adapters, seed):
    draws = StratifiedRatios(0.2, 0.6, adapters, strata=strata, seed=seed)
    for _ in range(3):
        block = [draws.draw() for _ in range(strata)]
        for column in zip(*block, strict=True) if adapters else [block]:
            found = sorted((p - 0.2) / 0.4 * strata for p in column)
            assert all(i - 1e-9 <= place <= i + 1 + 1e-9 for i, place in enumerate(found))


def test_adapters_are_drawn_apart():
    draws = StratifiedRatios(0.0, 0.8, 2)
    found = [draws.draw() for _ in range(8)]
    assert all(isinstance(p, PerAdapter) for p in found)
    assert [int(p[0] * 10) for p in found] != [int(p[1] * 10) for p in found]


@given(st.integers(0, 20), st.integers(0, 2))
def test_draws_go_on_where_they_were(before, adapters):
    whole, again = (StratifiedRatios(0.0, 0.8, adapters, seed=3) for _ in range(2))
    for _ in range(before):
        whole.draw()
    again.load_state_dict(whole.state_dict())
    assert [whole.draw() for _ in range(9)] == [again.draw() for _ in range(9)]


def test_ratios_by_hand():
    assert ratios_between(0.0, 0.8, 3) == [0.0, 0.4, 0.8]
    assert ratios_between(0.3, 0.3, 9) == [0.3]
    assert ratios_between(0.0, 1.0, 2, 2) == [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"p_min": 0.5, "p_max": 0.4}, "0 <= p_min <= p_max <= 1"),
        ({"p_min": 1.0, "p_max": 1.0}, "p_min below 1"),
        ({"ratios": 0}, "how many to look at"),
        ({"ratios": []}, "how many to look at"),
        ({"ratios": [0.1, 0.1]}, "each once"),
        ({"per_adapter": True}, "per_adapter is of a merged adapter"),
        ({"per_adapter": True, "parts": PARTS, "unit": "tensor"}, "per_adapter is of a merged adapter"),
    ],
)
def test_what_is_no_curve_is_refused(options, said):
    with pytest.raises(GraspError, match=said):
        curve(factors(), **options)


# One step


def test_a_step_by_hand():
    model = factors()
    one = curve(model, p_min=0.5, p_max=0.5)
    optimizer = torch.optim.SGD([model.a, model.b], lr=1.0)
    with one.step() as p:
        assert p == 0.5
        assert model.a.tolist() == [[0.0, -4.0], [3.0, 0.0]]
        assert model.b.tolist() == [[-8.0, 0.0], [0.0, 7.0]]
        (model.a.sum() + 2 * model.b.sum()).backward()
    assert model.a.tolist() == [[1.0, -4.0], [3.0, 2.0]]
    assert model.a.grad.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert model.b.grad.tolist() == [[2.0, 0.0], [0.0, 2.0]]
    optimizer.step()
    assert model.a.tolist() == [[1.0, -5.0], [2.0, 2.0]]
    assert model.b.tolist() == [[-10.0, 5.0], [6.0, 5.0]]


def test_gradients_that_are_accumulated_have_one_mask():
    model = factors()
    one = curve(model, p_min=0.5, p_max=0.5)
    with one.step():
        for _ in range(3):
            model.a.sum().backward()
    assert model.a.grad.tolist() == [[0.0, 3.0], [3.0, 0.0]]
    model.a.sum().backward()  # outside of a step nothing is masked
    assert model.a.grad.tolist() == [[1.0, 4.0], [4.0, 1.0]]


VALUES = st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=4)


@given(VALUES, VALUES, st.integers(0, 99), st.booleans())
def test_masks_leave_every_bit_of_the_dense_values(a, b, seed, per_adapter):
    model = Factors([a[:2], a[2:]], [b[:2], b[2:]])
    before = [bits(model.a), bits(model.b)]
    one = curve(model, p_max=1.0, seed=seed, parts=PARTS, per_adapter=per_adapter, ratios=3)
    for _ in range(9):
        with one.step():
            pass
        one.measure()
    for p in one.ratios:
        one.cut(p)
    one.cut(0.0)
    assert torch.equal(before[0], bits(model.a))
    assert torch.equal(before[1], bits(model.b))


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_masks_are_nested(p, q, seed):
    generator = torch.Generator().manual_seed(seed)
    model = Factors(
        torch.randn(3, 5, generator=generator).tolist(), torch.randn(4, 3, generator=generator).tolist()
    )
    one, kept = curve(model), []
    for ratio in sorted((p, q)):
        one.cut(ratio)
        kept.append([mask.clone() for mask in one.masked.masks().values()])
    assert all(bool((few <= many).all()) for many, few in zip(*kept, strict=True))


def test_a_step_that_raises_leaves_the_dense_values():
    model = factors()
    with pytest.raises(RuntimeError, match="out of memory"), curve(model, p_min=0.5).step():
        raise RuntimeError("out of memory")
    assert model.a.tolist() == [[1.0, -4.0], [3.0, 2.0]]


def test_momentum_moves_what_a_mask_takes():
    model = factors()
    one = curve(model, p_min=0.5, p_max=0.5)
    optimizer = torch.optim.AdamW([model.a, model.b], lr=0.1, weight_decay=0.0)
    model.a.sum().backward()
    optimizer.step()  # before any mask, so that all entries have momentum
    optimizer.zero_grad()
    before = model.a.detach().clone()
    with one.step():
        (model.a.sum() + model.b.sum()).backward()
    optimizer.step()
    kept = torch.tensor([[False, True], [True, False]])
    moved = model.a.detach() != before
    assert bool(moved[kept].all())
    assert bool(moved[~kept].any())
    one.close()
    assert torch.equal(model.a.detach() != before, moved)


def test_after_it_is_closed_gradients_are_whole_and_a_cut_is_not_trained():
    model = factors()
    one = curve(model, p_min=0.5, p_max=0.5)
    one.before_step()
    one.close()
    assert model.a.tolist() == [[1.0, -4.0], [3.0, 2.0]]
    model.a.sum().backward()
    assert model.a.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    one.cut(0.5)
    assert model.a.tolist() == [[0.0, -4.0], [3.0, 0.0]]
    with pytest.raises(GraspError, match=r"was cut at p = 0.5"):
        one.before_step()


# What is measured


def test_a_curve_by_hand():
    measured = curve(factors(), ratios=[0.5, 0.0, 0.25], groups=["x", "y"]).measure()
    assert [(point.p, list(point.losses)) for point in measured.points] == [
        (0.0, [2.0, 10.0]), (0.25, [1.0, 5.0]), (0.5, [-1.0, -1.0]),
    ]  # fmt: skip
    assert measured.best.p == 0.5
    assert measured.free.p == 0.5


def test_all_combinations_of_two_adapters():
    model = factors()
    one = curve(model, ratios=2, p_max=0.5, parts=PARTS, per_adapter=True)
    assert isinstance(one.before_step(), PerAdapter)
    one.before_optimizer_step()
    seen = {point.p: list(point.losses) for point in one.measure().points}
    assert seen == {
        (0.0, 0.0): [2.0, 10.0],
        (0.0, 0.5): [0.0, 5.0],
        (0.5, 0.0): [1.0, 4.0],
        (0.5, 0.5): [-1.0, -1.0],
    }


def points(*means, rows=4, noise=0.0):
    """Rows differ by the same from point to point, but for noise of changing sign."""
    return tuple(
        Point(i / 10, tuple(mean + row + noise * i * (-1) ** row for row in range(rows)))
        for i, mean in enumerate(means)
    )


def test_what_is_free_and_what_is_close_by_hand():
    sure = MeasuredCurve(points(1.0, 0.9, 1.005, 0.905, 1.02), margin=0.01)
    assert (sure.least.p, sure.best.p, sure.free.p) == (0.0, 0.1, 0.3)
    assert [point.p for point in sure.close] == [0.1, 0.3]
    assert sure.choose("sparsest").p == 0.3
    assert MeasuredCurve(points(1.0, 1.009, 1.005), margin=0.01).free.p == 0.2
    # Differences of four rows to the best are 0.02 -+ 0.02: a standard error of 0.02 / sqrt(3).
    noisy = MeasuredCurve(points(1.0, 1.02, noise=0.02), margin=0.01)
    assert noisy.error(*noisy.points) == pytest.approx(0.02 / 3**0.5)
    assert noisy.difference(noisy.points[1], noisy.points[0])[1] == pytest.approx(0.02 - 1.96 * 0.02 / 3**0.5)
    assert (noisy.best.p, noisy.free.p, len(noisy.close)) == (0.0, 0.1, 2)
    # As two passages of two questions each the same rows tell them apart exactly.
    grouped = MeasuredCurve(noisy.points, 0.01, ["one", "one", "two", "two"])
    assert (grouped.free.p, len(grouped.close)) == (0.0, 1)
    alone = MeasuredCurve((Point(0.0, (1.0,)), Point(0.5, (1.02,))))
    assert (alone.free.p, len(alone.close)) == (0.0, 2)
    with pytest.raises(GraspError, match="select is one of best, sparsest"):
        sure.choose("last")


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        (Point(0.0, ()),),
        (Point(0.0, (1.0,)), Point(0.0, (1.0,))),
        (Point(0.0, (1.0,)), Point(0.1, (1.0, 2.0))),
        (Point(0.0, (float("nan"),)),),
        (Point(1.5, (1.0,)),),
    ],
)
def test_what_is_no_measurement_is_refused(wrong):
    with pytest.raises(ValueError, match="curve"):
        MeasuredCurve(wrong)


def test_a_loss_that_is_not_finite_says_where():
    with pytest.raises(GraspError, match=r"the loss at p = 0\.0000 is nan"):
        RatioCurve(factors(), lambda _: float("nan")).measure()


# In a Trainer


class Watches(TrainerCallback):
    """What is zero in each micro-batch's passes, and of the gradients that are clipped."""

    def __init__(self, trainer):
        self.masks, self.clipped = [[]], []
        step, clip = trainer.training_step, trainer._clip_grad_norm

        def training_step(model, *given, **named):
            self.masks[-1].append([p.detach() == 0 for p in adapter_parameters(model).values()])
            return step(model, *given, **named)

        def clips(model):
            self.clipped.append([p.grad.clone() for p in adapter_parameters(model).values()])
            return clip(model)

        trainer.training_step, trainer._clip_grad_norm = training_step, clips

    def on_step_end(self, args, state, control, model, **_):
        assert all(p.detach().count_nonzero() == p.numel() for p in adapter_parameters(model).values())
        self.masks.append([])


def trained(folder, callback=None, **options):
    trainer = trainer_for(folder, per_device_train_batch_size=1, **options)
    made = RatioCurveCallback(trainer, MICRO_DEV, p_min=0.1, ratios=[0.0, 0.5], **(callback or {}))
    trainer.add_callback(made)
    watches = Watches(trainer)
    trainer.add_callback(watches)
    trainer.train()
    return trainer, made, watches


def test_a_step_has_one_mask_and_its_gradients_are_masked_before_they_are_clipped(tmp_path):
    _, made, watches = trained(tmp_path, gradient_accumulation_steps=2)
    assert made.curve.steps == 6
    shares = []
    for passes, gradients in zip(watches.masks, watches.clipped, strict=False):
        assert len(passes) == 2
        assert all(torch.equal(*pair) for pair in zip(*passes, strict=True))
        assert all(not gradient[zero].any() for gradient, zero in zip(gradients, passes[0], strict=True))
        shares.append(passes[0][0].float().mean().item())
    assert all(0.05 < share < 0.8 for share in shares)
    assert len(set(shares)) > 3


def test_the_same_seed_is_the_same_training(tmp_path):
    made = [trained(tmp_path / str(i), {"seed": seed}) for i, seed in enumerate((1, 1, 2))]
    weights = [[bits(p) for p in adapter_parameters(trainer.model).values()] for trainer, *_ in made]
    assert all(torch.equal(a, b) for a, b in zip(*weights[:2], strict=True))
    assert made[0][1].result == made[1][1].result
    assert not torch.equal(weights[0][0], weights[2][0])


def test_nothing_draws_from_a_global_generator():
    model = factors()
    before = torch.random.get_rng_state()
    one = curve(model)
    with one.step():
        pass
    one.measure()
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_is_measured_is_the_loss_of_the_adapter_that_is_cut(tmp_path):
    trainer, made, _ = trained(tmp_path)
    dense = {name: p.detach().clone() for name, p in adapter_parameters(trainer.model).items()}
    trainer.model.save_pretrained(tmp_path / "dense")
    examples = [Example(str(i), row["prompt"], row["completion"]) for i, row in enumerate(MICRO_DEV)]
    for point in made.result.points:
        model = PeftModel.from_pretrained(tiny_llama(), tmp_path / "dense", is_trainable=True)
        for name, weight in adapter_parameters(model).items():
            order = dense[name].abs().flatten().argsort()[: int(point.p * weight.numel())]
            weight.data.view(-1)[order] = 0.0
        again = TargetLoss(examples, TOKENIZER, model).per_example(model.eval())
        assert list(point.losses) == pytest.approx(again.tolist(), rel=1e-6)
        made.cut(point.p)
        for name, weight in adapter_parameters(trainer.model).items():
            assert torch.equal(weight, dict(adapter_parameters(model))[name])
    assert made.result.points[0].losses != made.result.points[1].losses


def test_it_measures_after_each_epoch_and_takes_no_log_of_the_loss(tmp_path):
    trainer, made, _ = trained(tmp_path, {"every_epoch": True}, max_steps=12, logging_strategy="epoch")
    assert len(made.epochs) == 2
    logged = [entry for entry in trainer.state.log_history if "curve/0.5" in entry]
    assert [entry["curve/0.5"] for entry in logged] == [one.at(0.5).mean for one in made.epochs]
    assert made.epochs[-1] == made.result
    assert sum("loss" in entry for entry in trainer.state.log_history) == 2


def test_before_it_was_trained_there_is_no_result(tmp_path):
    made = RatioCurveCallback(trainer_for(tmp_path), MICRO_DEV)
    for ask in (lambda: made.result, lambda: made.cut(0.5)):
        with pytest.raises(GraspError, match="no training has ended"):
            ask()
    with pytest.raises(GraspError, match=r"^examples has no rows$"):
        RatioCurveCallback(trainer_for(tmp_path), [])


@pytest.mark.parametrize("first", [0, 1])
def test_two_that_prune_are_refused(tmp_path, first):
    for other in (lambda t: GraspCallback(t, MICRO_DEV), lambda t: FixedMaskCallback(0.5)):
        trainer = trainer_for(tmp_path)
        both = [RatioCurveCallback(trainer, MICRO_DEV), other(trainer)]
        for callback in both[::-1] if first else both:
            trainer.add_callback(callback)
        with pytest.raises(GraspError, match="both would prune the adapter"):
            trainer.train()


@pytest.mark.parametrize("resumes", [True, False])
def test_a_training_that_was_broken_off_amid_a_step_can_be_started_again(tmp_path, resumes):
    """In the same process and Trainer, as in a notebook: from its checkpoint, or anew from what was left."""
    options = {"per_device_train_batch_size": 1, "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    whole = trainer_for(tmp_path / "whole", **options)
    whole.add_callback(RatioCurveCallback(whole, MICRO_DEV))
    whole.train()
    trainer = trainer_for(tmp_path / "again", **options)
    made = RatioCurveCallback(trainer, MICRO_DEV)
    trainer.add_callback(made)
    step, calls = trainer.training_step, []

    def breaks(model, *given, **named):
        calls.append(model)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(model, *given, **named)

    trainer.training_step = breaks
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert any((p.detach() == 0).any() for p in adapter_parameters(trainer.model).values())  # amid a step
    trainer.train(resume_from_checkpoint=resumes)
    if resumes:
        pairs = zip(*(adapter_parameters(one.model).values() for one in (whole, trainer)), strict=True)
        assert all(torch.equal(bits(a), bits(b)) for a, b in pairs)
    assert not any((p.detach() == 0).any() for p in adapter_parameters(trainer.model).values())
    assert made.curve.steps == 6


def test_in_trls_trainer(tmp_path):
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list([{"prompt": e.prompt, "completion": e.target} for e in EXAMPLES])
    arguments = SFTConfig(
        output_dir=str(tmp_path), max_steps=6, learning_rate=1e-2, report_to="none", use_cpu=True, bf16=False,
        gradient_accumulation_steps=2, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model = adapted()
    before = [bits(p) for p in adapter_parameters(model).values()]
    trainer = SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=TOKENIZER)
    made = RatioCurveCallback(trainer, MICRO_DEV, ratios=5)
    trainer.add_callback(made)
    trainer.train()
    assert made.curve.steps == 6
    assert [point.p for point in made.result.points] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert all(
        not torch.equal(was, bits(p))
        for was, p in zip(before, adapter_parameters(trainer.model).values(), strict=True)
    )
    made.cut(made.result.free.p)
