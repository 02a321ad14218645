"""The baseline of Miyano & Arase: importance by hand and against autograd, resets, schedules."""

import gc
from types import SimpleNamespace

import pytest
import torch
from tests.helpers.models import TINY_MODELS, random_adapter, tiny_gpt2, tiny_llama, tokens
from tests.helpers.tokenizer import tiny_tokenizer
from torch import nn
from transformers import TrainerCallback

from grasp_lora import experiment
from grasp_lora.config.tree import Config
from grasp_lora.control.importance import GradientImportance
from grasp_lora.control.input_importance import InputImportance, _ProjectionInputs
from grasp_lora.control.merge_prune import MergePruneCallback, StepPruner
from grasp_lora.control.pruning import masks_at, thresholds
from grasp_lora.control.units import adapter_parameters, prune_units
from grasp_lora.cost import measure
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.merging import Part
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.training import EveryStep

A = "base_model.model.layer.lora_A.default.weight"
B = "base_model.model.layer.lora_B.default.weight"
PARTS = {"layer": (SimpleNamespace(name="en", start=0, stop=1), SimpleNamespace(name="ar", start=1, stop=2))}
LIMITS = {"max_length": 40, "max_new_tokens": 10}
VALIDATION = [Example(str(i), f"say {'abcdefgh'[: i + 1]}:", "abcdefgh"[: i + 1]) for i in range(5)]


def factors():
    return {
        A: nn.Parameter(torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])),
        B: nn.Parameter(torch.tensor([[1.0, 2.0], [-3.0, 4.0]])),
    }


def adapted(name="llama", r=4):
    torch.manual_seed(0)
    factory, modules = TINY_MODELS[name]
    model = new_adapter(factory(), Lora(r=r, target_modules=modules))
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.normal_(std=0.3)
    return model


def test_the_lowest_of_each_factor_of_each_adapter_go():
    tensors = factors()
    importance = [torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]]), torch.tensor([[1.0, 9.0], [2.0, 8.0]])]
    StepPruner(tensors, PARTS, p=0.5).prune(importance)
    assert tensors[A].tolist() == [[1.0, 0.0, 3.0], [0.0, 5.0, -6.0]]  # k = floor(1.5) = 1 of each row
    assert tensors[B].tolist() == [[0.0, 2.0], [-3.0, 0.0]]


def test_init_resets_to_the_start_of_the_merge():
    tensors = factors()
    start = {n: p.detach().clone() for n, p in tensors.items()}
    pruner = StepPruner(tensors, PARTS, p=0.5, value="init")
    with torch.no_grad():
        for p in tensors.values():
            p.add_(1.0)
    keep = pruner.prune([p.detach().abs() for p in tensors.values()])
    for (name, now), mask in zip(tensors.items(), keep, strict=True):
        assert torch.equal(now[~mask], start[name][~mask])
        assert torch.equal(now[mask], start[name][mask] + 1.0)


def test_a_module_goes_as_a_whole_when_its_mean_is_under_the_threshold():
    tensors = factors()
    importance = [torch.tensor([[1.0, 1.0, 1.0], [5.0, 5.0, 5.0]]), torch.tensor([[2.0, 5.0], [1.0, 5.0]])]
    StepPruner(tensors, PARTS, unit="module", threshold=1.3).prune(importance)  # means 1.2 and 5
    assert tensors[A].tolist() == [[0.0, 0.0, 0.0], [4.0, 5.0, -6.0]]
    assert tensors[B].tolist() == [[0.0, 2.0], [0.0, 4.0]]


def test_gradient_importance_by_hand():
    # w = 2, gradients 3 and 1: I = 6, 2; I_bar = 0.15 * 6 = 0.9, then 0.85 * 0.9 + 0.3 = 1.065;
    # U_bar = 0.15 * 5.1 = 0.765, then 0.85 * 0.765 + 0.15 * 0.935 = 0.7905
    weight = nn.Parameter(torch.tensor([2.0]))
    importance = GradientImportance([weight])
    weight.grad = torch.tensor([3.0])
    assert importance()[0].item() == pytest.approx(0.9 * 0.765)
    weight.grad = torch.tensor([1.0])
    assert importance()[0].item() == pytest.approx(1.065 * 0.7905)


@pytest.mark.parametrize("name", TINY_MODELS)
def test_input_norms_are_those_of_the_unpadded_texts(name):
    model = adapted(name)
    parameters = adapter_parameters(model)
    together = InputImportance(model, parameters, TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS))
    alone = TargetLoss(VALIDATION, tiny_tokenizer(), model, token_budget=1, **LIMITS)
    assert len(together.validation.batches) == 1
    assert len(alone.batches) == len(VALIDATION)
    expected = InputImportance(model, parameters, alone).input_norms()
    for site, norms in together.input_norms().items():
        torch.testing.assert_close(norms, expected[site], rtol=1e-4, atol=1e-5)


HEADS = {"llama": (tiny_llama, ["q_proj", "lm_head", "embed_tokens"]), "gpt2": (tiny_gpt2, ["wte", "c_attn"])}


@pytest.mark.parametrize("name", HEADS)
def test_norms_of_adapted_embeddings_by_hand(name):
    """Of the output embedding its real inputs; of the input embedding how often each token occurs."""
    factory, modules = HEADS[name]
    torch.manual_seed(0)
    model = new_adapter(factory(), Lora(r=4, target_modules=modules))
    parameters = adapter_parameters(model)
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
    norms = InputImportance(model, parameters, validation).input_norms()
    base = factory()
    counts, squares = torch.zeros(base.config.vocab_size), torch.zeros(base.config.hidden_size)
    for example in VALIDATION:
        ids = torch.tensor([encode(example, tiny_tokenizer(), Limits(**LIMITS)).input_ids])
        counts += torch.bincount(ids[0], minlength=len(counts))
        squares += base.base_model(input_ids=ids).last_hidden_state[0].detach().square().sum(0)
    found = {site.rsplit(".", 1)[1]: value for site, value in norms.items()}
    torch.testing.assert_close(found[modules[-1] if name == "llama" else "wte"], counts.sqrt())
    if name == "llama":
        torch.testing.assert_close(found["lm_head"], squares.sqrt(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rescore", ["validation", "train_batch"])
def test_adapted_embeddings_train(tmp_path, rescore):
    factory, modules = HEADS["llama"]
    torch.manual_seed(0)
    model = new_adapter(factory(), Lora(r=4, target_modules=modules))
    with torch.no_grad():
        for p in adapter_parameters(model).values():
            p.normal_(std=0.3)
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
    callback = MergePruneCallback(0.5, validation=validation, rescore=rescore)
    trainer_for(tmp_path, model, callback).train()
    for n, p in adapter_parameters(model).items():
        assert (p == 0).float().mean() >= 0.5 - 1e-3, n


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_input_importance_is_autograd_of_the_weighted_sum(name):
    model = adapted(name)
    parameters = adapter_parameters(model)
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
    parts = {
        n.split(".lora_")[0].removeprefix("base_model.model."): (
            SimpleNamespace(name="en", start=0, stop=1),
            SimpleNamespace(name="ar", start=1, stop=4),
        )
        for n in parameters
    }
    importance = InputImportance(model, parameters, validation, parts)
    scores = dict(zip(parameters, importance(), strict=True))
    by_module = InputImportance(model, parameters, validation, parts, unit="module")
    means = dict(zip(parameters, by_module(), strict=True))
    norms = importance.input_norms()
    for name_a, a in parameters.items():
        if ".lora_A." not in name_a:
            continue
        name_b = name_a.replace(".lora_A.", ".lora_B.")
        b, x = parameters[name_b], norms[name_a.split(".lora_")[0]]
        total = sum(((b[:, s:e] @ a[s:e]).abs() * x).sum() for s, e in ((0, 1), (1, 4)))
        grad_a, grad_b = torch.autograd.grad(total, (a, b))
        torch.testing.assert_close(scores[name_a], grad_a.abs(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores[name_b], grad_b.abs(), rtol=1e-4, atol=1e-5)
        for s, e in ((0, 1), (1, 4)):  # a module's own score: the mean over its W = BA
            mean = ((b[:, s:e] @ a[s:e]).abs() * x).mean()
            torch.testing.assert_close(means[name_a][s:e], mean.expand_as(a[s:e]), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(means[name_b][:, s:e], mean.expand_as(b[:, s:e]), rtol=1e-4, atol=1e-6)


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def encoded():
    return [encode(e, tiny_tokenizer(), Limits(**LIMITS)) for e in VALIDATION]


def trainer_for(folder, model, *callbacks, steps=2):
    options = Training(max_steps=steps, batch_size=2, gradient_accumulation=2, learning_rate=1e-2)
    trainer = build_trainer(model, tiny_tokenizer(), encoded(), options, 42, folder, "test")
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def record_inputs(model, parameters):
    """A list that fills with (site, input, attention mask) of every call of an adapted module."""
    recorded, mask = [], []
    model.register_forward_pre_hook(
        lambda _, __, inputs: mask.append(inputs["attention_mask"]), with_kwargs=True
    )
    for site in {n.split(".lora_")[0] for n in parameters}:
        model.get_submodule(site).register_forward_pre_hook(
            lambda _, inputs, site=site: recorded.append((site, inputs[0].detach(), mask[-1]))
        )
    return recorded


def norms_by_hand(recorded):
    """By site, over the tokens that are no padding, one by one."""
    totals = {}
    for site, hidden, mask in recorded:
        for row, kept in zip(hidden, mask, strict=True):
            for token, keep in zip(row, kept, strict=True):
                if keep:
                    totals[site] = totals.get(site, 0) + token.double() ** 2
    return {site: total.sqrt().float() for site, total in totals.items()}


def assert_norms(actual, expected):
    assert actual.keys() == expected.keys()
    for site, norms in expected.items():
        torch.testing.assert_close(actual[site], norms, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_norms_of_train_batches_by_hand(checkpointing):
    model = adapted()  # LoRA's dropout is on in training mode
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = adapter_parameters(model)
    loss = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
    importance = InputImportance(model, parameters, rescore="train_batch")
    collate = TargetCollator(tiny_tokenizer(), model)
    recorded = record_inputs(model, parameters)
    counted = []
    model.train()
    for rows in (slice(0, 2), slice(2, 5)):  # two micro-batches of one optimizer step
        batch = collate(encoded()[rows])
        assert not batch["attention_mask"].all()
        recorded.clear()
        value = model(**batch).loss
        counted += recorded
        before = len(recorded)
        value.backward()
        assert (len(recorded) > before) == checkpointing  # computed again, and not counted again
        loss(model)  # an evaluation in between does not count
        with torch.no_grad():
            model(**batch)  # nor one that forgot about eval mode
    assert_norms(importance.input_norms(), norms_by_hand(counted))
    with pytest.raises(ValueError, match="no forward pass went through"):
        importance.input_norms()  # the next step starts from nothing


class EvaluatesInBetween(TrainerCallback):
    def __init__(self, model, recorded):
        self.model, self.recorded = model, recorded
        self.loss = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
        self.steps = []

    def on_substep_end(self, args, state, control, **_):
        counted = list(self.recorded)
        self.loss(self.model)
        self.recorded[:] = counted

    def on_optimizer_step(self, args, state, control, **_):
        self.steps.append(norms_by_hand(self.recorded))
        self.recorded.clear()


def test_a_trainer_scores_by_its_own_batches(tmp_path, monkeypatch):
    model = adapted()
    seen = []
    norms = InputImportance.input_norms
    monkeypatch.setattr(
        InputImportance, "input_norms", lambda self: seen.append(result := norms(self)) or result
    )
    recorded = record_inputs(model, adapter_parameters(model))
    evaluates = EvaluatesInBetween(model, recorded)
    trainer = trainer_for(tmp_path, model, MergePruneCallback(0.5, rescore="train_batch"), evaluates, steps=3)
    before = hooks(model)
    trainer.train()
    assert len(seen) == 3
    for actual, expected in zip(seen, evaluates.steps, strict=True):
        assert_norms(actual, expected)
    assert hooks(model) == before
    zeros = sum((p == 0).sum().item() for p in adapter_parameters(model).values())
    assert zeros / sum(p.numel() for p in adapter_parameters(model).values()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({"rescore": "train_batch"}, 0),
        ({"rescore": "validation"}, 4 * len(VALIDATION)),
        ({"rescore": "validation", "rescore_every": 2}, 2 * len(VALIDATION)),
        ({"importance": "gradient"}, 0),
    ],
)
def test_passes_over_the_validation_set_are_counted(tmp_path, options, extra):
    def passes(*callbacks):
        model = adapted()
        trainer = trainer_for(tmp_path, model, *callbacks, steps=4)
        with measure() as cost:
            trainer.train()
        return cost.forward_examples, cost.backward_examples

    model = adapted()
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
    forward, backward = passes()
    assert forward >= 4 * 2
    assert passes(MergePruneCallback(0.5, validation=validation, **options)) == (forward + extra, backward)


def test_no_hook_stays_when_training_raises(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            raise RuntimeError("stop here")

    model = adapted()
    before = hooks(model) + 1  # build_trainer counts passes by one of its own
    trainer = trainer_for(tmp_path, model, MergePruneCallback(0.5, rescore="train_batch"), Stop())
    with pytest.raises(RuntimeError, match="stop here"):
        trainer.train()
    del trainer
    gc.collect()
    assert hooks(model) == before


def test_inputs_must_come_from_somewhere():
    said = "^importance from inputs needs a validation set, or rescore='train_batch'$"
    with pytest.raises(GraspError, match=said):
        MergePruneCallback(0.5)
    model = adapted()
    with pytest.raises(GraspError, match=said):
        InputImportance(model, adapter_parameters(model))


@pytest.mark.parametrize(
    ("option", "value", "kinds"),
    [
        ("importance", "inputs", "input, gradient"),
        ("unit", "modules", "parameter, module"),
        ("value", "start", "zero, init"),
        ("rescore", "dev", "validation, train_batch"),
    ],
)
def test_a_choice_that_is_none_is_refused(tmp_path, option, value, kinds):
    model = adapted()
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)

    def train():
        callback = MergePruneCallback(0.5, validation=validation, **{option: value})
        trainer_for(tmp_path, model, callback).train()

    with pytest.raises(GraspError, match=f"^{option} is one of {kinds}; got '{value}'$"):
        train()
    with pytest.raises(GraspError, match=r"^unit is one of parameter, module; got 'modules'$"):
        InputImportance(model, adapter_parameters(model), validation, unit="modules")


def test_nothing_is_reset_unless_a_ratio_or_a_threshold_says_so():
    for unit in ("parameter", "module"):
        tensors = factors()
        before = [p.detach().clone() for p in tensors.values()]
        keep = StepPruner(tensors, PARTS, unit=unit).prune([torch.zeros_like(p) for p in tensors.values()])
        assert all(mask.all() for mask in keep)
        assert all(torch.equal(p, old) for p, old in zip(tensors.values(), before, strict=True))


@pytest.mark.parametrize("importance", ["input", "gradient"])
def test_the_callback_prunes_within_each_adapters_part(tmp_path, importance):
    """Half of each part goes; of a whole factor the small first part would lose more."""
    model = adapted()
    parameters = adapter_parameters(model)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.narrow(0 if ".lora_A." in name else 1, 0, 2).mul_(1e-3)
    sites = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in parameters}
    parts = {site: (Part("en", 0, 2), Part("ar", 2, 4)) for site in sites}
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
    callback = MergePruneCallback(0.5, validation=validation, parts=parts, importance=importance)
    assert callback.scores == []
    trainer_for(tmp_path, model, callback, steps=1).train()
    for unit in prune_units(parameters, parts):
        block = unit.of([p.detach() for p in parameters.values()])
        assert 0.5 <= (block == 0).float().mean() < 0.6  # scores may tie
    for unit in prune_units(parameters, parts):  # and scores are of one adapter's own delta W
        assert unit.of(callback.scores).isfinite().all()


def test_a_module_that_drops_tokens_is_refused():
    model = adapted()
    names = [name.split(".lora_")[0] for name in adapter_parameters(model)]
    seen = _ProjectionInputs(model, names, training=False)
    seen._begin(model, (), {"attention_mask": torch.ones(2, 3)})
    with pytest.raises(GraspError, match=r"^layer sees 5 of 6 tokens: cannot tell which are padding$"):
        seen._real(torch.zeros(5, 8), "layer")


def test_inputs_of_all_ranks_are_added(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(1.0))
    model = adapted()
    seen = _ProjectionInputs(model, [], training=True)
    seen.squares = {"site": torch.tensor([1.0, 2.0])}
    assert seen.take()["site"].tolist() == [2.0, 3.0]
    assert seen.squares == {}


def test_only_training_passes_count_while_training():
    model = adapted()
    names = [name.split(".lora_")[0] for name in adapter_parameters(model)][:1]
    seen = _ProjectionInputs(model, names)
    module = model.get_submodule(names[0])
    module(torch.ones(1, module.in_features))  # by itself, outside the model's own pass
    assert seen.squares == {}
    with torch.no_grad():
        model.train()(input_ids=tokens())
    assert seen.squares == {}
    with pytest.raises((AttributeError, TypeError)):  # by the version of transformers
        model(input_ids=tokens(), position_ids="broken")
    assert not seen._active  # a pass that failed is over too
    model(input_ids=tokens())  # without a mask all tokens count
    assert set(seen.squares) == set(names)


@pytest.mark.parametrize("p", [0.0, 0.29, 0.5, 1.0])
def test_selecting_the_threshold_is_sorting_for_it(p):
    torch.manual_seed(0)
    parameters = adapter_parameters(adapted())
    importance = [torch.rand(w.shape).round(decimals=2) for w in parameters.values()]  # with ties
    units = prune_units(parameters)
    expected = [torch.empty_like(w, dtype=torch.bool) for w in parameters.values()]
    masks_at(importance, units, thresholds(importance, units, [p])[0], out=expected)
    keep = StepPruner(parameters, p=p).prune(importance)
    assert all(torch.equal(a, b) for a, b in zip(keep, expected, strict=True))


@pytest.mark.parametrize("rescore", ["validation", "train_batch"])
def test_a_config_says_where_the_inputs_come_from(tmp_path, rescore):
    tiny_llama().save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    rows = {name: tmp_path / f"{name}.jsonl" for name in ("train", "dev")}
    for start, file in enumerate(rows.values()):
        words = [f"{'abcdefgh'[i]}{start}" for i in range(4)]
        file.write_text("".join(f'{{"text": "{word}", "title": "{word}"}}\n' for word in words))
    task = {"name": "copy", "prompt": "say {text}\n", "target": "title"}
    adapters = {
        language: random_adapter(
            tiny_llama(), tmp_path / language, seed=seed, r=2, target_modules=["q_proj", "v_proj"]
        )
        for seed, language in enumerate(("en", "ar"))
    }
    config = Config.model_validate(
        {
            "name": "tiny",
            "methods": ["merge"],
            "runs": tmp_path / "runs",
            "backbone": str(tmp_path / "backbone"),
            "task": {**task, "languages": dict.fromkeys(adapters, rows)},
            "source": {"language": "en", "adapter": adapters["en"]},
            "target": {"language": "ar", "adapter": adapters["ar"]},
            "training": {"epochs": 1},
            "merge_prune": {"rescore": rescore},
            "max_length": 40,
            "max_new_tokens": 6,
        }
    )
    x = experiment.start(config)
    experiment.make(x, [x.merged])
    stage = x.train("pruned", 42, start=x.merged, mask=EveryStep(0.5, config.merge_prune))
    with measure() as cost:
        experiment.make(x, [stage])
    epochs = 2 * 4  # dev loss at the start and after the epoch
    assert cost.forward_examples == 4 + epochs + (4 * 4 if rescore == "validation" else 0)


def fitted(folder, **options):
    """A callback after four steps in one epoch, with the scores of each."""
    model, seen = adapted(), []
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
    callback = MergePruneCallback(validation=validation, **options)

    class Watch(TrainerCallback):
        def on_step_end(self, *_, **__):
            seen.append([score.clone() for score in callback.scores])

    trainer_for(folder, model, callback, Watch(), steps=4).train()
    return callback, seen


def test_importance_from_gradients_is_taken_at_every_step(tmp_path):
    """Which gives the smoothing what it needs; only importance from inputs costs passes."""
    (_, every), (_, rarely) = (
        fitted(tmp_path / str(n), importance="gradient", p=0.2, rescore_every=n) for n in (1, 3)
    )
    for one, other in zip(every, rarely, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_modules_entries_all_score_its_mean(tmp_path):
    callback, seen = fitted(tmp_path, unit="module")
    for scores in seen:
        assert all(len(set(score.reshape(-1).tolist())) == 1 for score in scores)
    assert callback.epochs[-1].pruned_share == 0.0  # no threshold: nothing is under it
    sites = {unit.name.replace(".lora_A", "").replace(".lora_B", "") for unit in callback._pruner.units}
    assert callback.epochs[-1].importance.keys() == sites
    means = [score.mean().item() for score in seen[-1]]
    assert list(callback.epochs[-1].importance.values()) == pytest.approx(means[::2], rel=1e-5)
    assert means[::2] == pytest.approx(means[1::2], rel=1e-5)


def test_what_is_not_trained_or_no_factor_is_left_alone():
    model = adapted()
    factors = adapter_parameters(model)
    model.base_model.model.lm_head.weight.requires_grad_(True)
    assert adapter_parameters(model).keys() == factors.keys()
    frozen = next(iter(factors))
    factors[frozen].requires_grad_(False)
    assert adapter_parameters(model).keys() == factors.keys() - {frozen}


@pytest.mark.parametrize("rescore", ["validation", "train_batch"])
def test_inputs_without_the_norms_learned_weight(rescore):
    """The projection sees them times the weight."""
    model = adapted()
    for i, layer in enumerate(model.base_model.model.model.layers):
        torch.manual_seed(i)
        layer.input_layernorm.weight.data.uniform_(0.2, 3.0)
    parameters = adapter_parameters(model)
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
    scores = {
        inputs: InputImportance(model, parameters, validation, rescore=rescore, inputs=inputs)
        for inputs in ("projection", "layer")
    }
    if rescore == "train_batch":
        model.train()(input_ids=tokens(), labels=tokens())
    real, plain = scores["projection"].input_norms(), scores["layer"].input_norms()
    assert len(real) == 4
    for site, norm in real.items():
        layer = int(site.split(".layers.")[1].split(".")[0])
        weight = model.base_model.model.model.layers[layer].input_layernorm.weight.detach()
        torch.testing.assert_close(norm, plain[site] * weight, rtol=1e-4, atol=1e-5)


def test_only_what_reads_a_layers_input_can_take_it():
    model = new_adapter(tiny_llama(), Lora(r=2, target_modules=["q_proj", "o_proj"]))
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, **LIMITS)
    with pytest.raises(GraspError, match=r"for q_proj, k_proj and v_proj, which .*o_proj is not"):
        InputImportance(model, adapter_parameters(model), validation, inputs="layer")
    with pytest.raises(GraspError, match=r"^inputs is one of projection, layer; got 'norm'$"):
        InputImportance(model, adapter_parameters(model), validation, inputs="norm")


def test_a_modules_score_of_gradients_pooled_either_way():
    """By hand: A's mean is 2 (3 entries), B's 5 (2 entries): 3.2 over all, 7 as the sum of the means."""
    importance = [torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0], [6.0]])]
    for pool, score in (("entries", 3.2), ("factors", 7.0)):
        for threshold, kept in ((score - 0.01, True), (score + 0.01, False)):
            tensors = {A: nn.Parameter(torch.ones(1, 3)), B: nn.Parameter(torch.ones(2, 1))}
            pruner = StepPruner(tensors, unit="module", threshold=threshold, pool=pool)
            assert all(bool(mask.all()) == kept for mask in pruner.prune(importance))
    with pytest.raises(GraspError, match=r"^pool is one of entries, factors; got 'mean'$"):
        StepPruner(factors(), unit="module", pool="mean")


def test_pooling_is_of_gradients(tmp_path):
    """From inputs, a module's entries all score the module's mean, as published."""
    sums = {}
    for importance in ("input", "gradient"):
        callback, _ = fitted(tmp_path / importance, unit="module", importance=importance, pool="factors")
        sums[importance] = callback._pruner.pool
    assert sums == {"input": "entries", "gradient": "factors"}
