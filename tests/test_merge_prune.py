"""The baseline of Miyano & Arase: importance by hand and against autograd, resets, schedules."""

from types import SimpleNamespace

import pytest
import torch
from tests.tiny_models import TINY_MODELS
from tests.tiny_tokenizer import tiny_tokenizer
from torch import nn

from grasp_lora.control.merge_prune import GradientImportance, InputImportance, StepPruner
from grasp_lora.control.pruning import adapter_parameters
from grasp_lora.lm.adapters import new_adapter
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.tasks.example import Example

A = "base_model.model.layer.lora_A.default.weight"
B = "base_model.model.layer.lora_B.default.weight"
PARTS = {"layer": (SimpleNamespace(name="en", start=0, stop=1), SimpleNamespace(name="ar", start=1, stop=2))}
VALIDATION = [Example(str(i), f"say {'abcdefgh'[: i + 1]}:", "abcdefgh"[: i + 1]) for i in range(5)]


def factors():
    return {
        A: nn.Parameter(torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])),
        B: nn.Parameter(torch.tensor([[1.0, 2.0], [-3.0, 4.0]])),
    }


def adapted(name="llama", r=4):
    torch.manual_seed(0)
    factory, modules = TINY_MODELS[name]
    model = new_adapter(factory(), r=r, target_modules=modules)
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
    limits = {"max_length": 40, "max_new_tokens": 10}
    together = InputImportance(model, parameters, TargetLoss(VALIDATION, tiny_tokenizer(), model, **limits))
    alone = TargetLoss(VALIDATION, tiny_tokenizer(), model, token_budget=1, **limits)
    assert len(together.validation.batches) == 1
    assert len(alone.batches) == len(VALIDATION)
    expected = InputImportance(model, parameters, alone).input_norms()
    for site, norms in together.input_norms().items():
        torch.testing.assert_close(norms, expected[site], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_input_importance_is_autograd_of_the_weighted_sum(name):
    model = adapted(name)
    parameters = adapter_parameters(model)
    validation = TargetLoss(VALIDATION, tiny_tokenizer(), model, max_length=40, max_new_tokens=10)
    parts = {
        n.split(".lora_")[0].removeprefix("base_model.model."): (
            SimpleNamespace(name="en", start=0, stop=1),
            SimpleNamespace(name="ar", start=1, stop=4),
        )
        for n in parameters
    }
    importance = InputImportance(model, parameters, validation, parts)
    scores = dict(zip(parameters, importance(), strict=True))
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
