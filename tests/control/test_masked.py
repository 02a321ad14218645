"""Dense and live values, commits, probes, optimizer state (GRASP Sec. 3.3; design of the dense values)."""

import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.moments import reset_optimizer_state
from grasp_lora.control.units import Pruning

A = "base_model.model.layer.lora_A.default.weight"
B = "base_model.model.layer.lora_B.default.weight"
PARTS = {"layer": (SimpleNamespace(name="en", start=0, stop=2), SimpleNamespace(name="ar", start=2, stop=4))}


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        A: nn.Parameter(torch.randn(4, 6, generator=generator)),
        B: nn.Parameter(torch.randn(5, 4, generator=generator)),
    }


def values(tensors):
    return [t.detach().clone() for t in tensors.values()]


def train(tensors, optimizer, masked, steps=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for tensor in tensors.values():
            tensor.grad = torch.randn(tensor.shape, generator=generator)
        optimizer.step()
        masked.zero_pruned()


def test_pruned_entries_are_zero_and_stay_zero():
    tensors = parameters()
    optimizer = torch.optim.AdamW(tensors.values(), lr=0.1)
    masked = MaskedAdapter(tensors, Pruning(PARTS))
    masked.commit(0.5, optimizer)
    train(tensors, optimizer, masked, steps=3)
    for name, mask in masked.masks().items():
        assert (tensors[name][~mask] == 0).all()
        assert (tensors[name][mask] != 0).all()
    assert masked.pruned_shares() == {
        "layer.lora_A[en]": 0.5,
        "layer.lora_A[ar]": 0.5,
        "layer.lora_B[en]": 0.5,
        "layer.lora_B[ar]": 0.5,
    }


def test_importance_and_the_norm_that_goes_by_hand():
    """A is (1, 4) and B (2, 1), one unit each: half of the entries goes, the smaller ones."""
    tensors = {
        A: nn.Parameter(torch.tensor([[1.0, -2.0, 3.0, -4.0]])),
        B: nn.Parameter(torch.tensor([[0.5], [-1.5]])),
    }
    masked = MaskedAdapter(tensors)
    assert masked.importances() == {"layer.lora_A": 2.5, "layer.lora_B": 1.0}
    assert masked.pruned_norms() == {"layer.lora_A": 0.0, "layer.lora_B": 0.0}
    masked.commit(0.5)
    assert masked.pruned_norms() == {
        "layer.lora_A": pytest.approx((1 + 4) / 30),
        "layer.lora_B": pytest.approx(0.25 / 2.5),
    }
    assert masked.importances() == {"layer.lora_A": 2.5, "layer.lora_B": 1.0}  # of dense values


def test_revived_entries_come_back_with_the_value_they_were_pruned_at():
    tensors = parameters()
    optimizer = torch.optim.AdamW(tensors.values(), lr=0.1)
    masked = MaskedAdapter(tensors, Pruning(PARTS))
    train(tensors, optimizer, masked, steps=2)
    before = values(tensors)
    masked.commit(0.75, optimizer)
    held = masked.masks()
    train(tensors, optimizer, masked, steps=2, seed=1)
    trained = values(tensors)
    masked.commit(0.0, optimizer)
    for now, old, kept, mask in zip(values(tensors), before, trained, held.values(), strict=True):
        assert torch.equal(now[~mask], old[~mask])
        assert torch.equal(now[mask], kept[mask])


def test_the_ratio_can_fall_again():
    """Masks come from dense values: were zeros ranked, lowering p after training could revive nothing."""
    tensors = parameters()
    masked = MaskedAdapter(tensors)
    masked.commit(0.8)
    masked.commit(0.2)
    expected = MaskedAdapter(parameters())
    expected.commit(0.2)
    assert all(torch.equal(x, y) for x, y in zip(masked.parameters, expected.parameters, strict=True))


def test_commit_clears_the_moments_of_what_changed_and_keeps_the_step():
    tensors = parameters()
    optimizer = torch.optim.AdamW(tensors.values(), lr=0.1)
    masked = MaskedAdapter(tensors, Pruning(PARTS))
    masked.commit(0.5, optimizer)
    train(tensors, optimizer, masked, steps=3)
    old = masked.masks()
    state = {n: {k: v.clone() for k, v in optimizer.state[p].items()} for n, p in tensors.items()}
    masked.commit(0.25, optimizer)
    for name, parameter in tensors.items():
        changed = old[name] ^ masked.masks()[name]
        assert changed.any()
        for key in ("exp_avg", "exp_avg_sq"):
            now = optimizer.state[parameter][key]
            assert (now[changed] == 0).all()
            assert torch.equal(now[~changed], state[name][key][~changed])
        assert optimizer.state[parameter]["step"] == state[name]["step"] == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
    ],
)
def test_any_elementwise_optimizer(make):
    tensors = parameters()
    optimizer = make(tensors.values())
    train(tensors, optimizer, MaskedAdapter(tensors))
    changed = [torch.rand(p.shape) < 0.5 for p in tensors.values()]
    reset_optimizer_state(optimizer, list(tensors.values()), changed)
    cleared = 0
    for parameter, entries in zip(tensors.values(), changed, strict=True):
        for value in optimizer.state[parameter].values():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                assert (value[entries] == 0).all()
                assert (value[~entries] != 0).any()
                cleared += 1
    assert cleared >= 2


def test_quantized_optimizer_state_is_refused():
    tensors = parameters()
    optimizer = torch.optim.SGD(tensors.values(), lr=0.1)
    optimizer.state[tensors[A]]["state1"] = torch.zeros(4, 6, dtype=torch.uint8)
    with pytest.raises(ValueError, match="32-bit optimizer"):
        MaskedAdapter(tensors).commit(0.5, optimizer)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.floats(0, 1), st.booleans())
def test_probing_restores_every_bit(ratios, committed, fail):
    tensors = parameters()
    optimizer = torch.optim.AdamW(tensors.values(), lr=0.1)
    masked = MaskedAdapter(tensors, Pruning(PARTS))
    masked.commit(committed, optimizer)
    train(tensors, optimizer, masked)  # leaves -0.0 among the pruned
    before = [t.view(torch.int32) for t in values(tensors)]
    with pytest.raises(RuntimeError) if fail else nullcontext(), masked.probing(ratios) as apply:
        for i, p in enumerate(ratios):
            apply(i)
            alone = MaskedAdapter(
                {n: nn.Parameter(d.clone()) for n, d in zip(tensors, masked._dense, strict=True)},
                Pruning(PARTS),
            )
            alone.commit(p)
            assert all(
                torch.equal(x, y.detach()) for x, y in zip(values(tensors), alone.parameters, strict=True)
            )
        if fail:
            raise RuntimeError
    assert all(torch.equal(x, y.view(torch.int32)) for x, y in zip(before, values(tensors), strict=True))


def test_importance_from_the_start_ignores_later_values():
    tensors = parameters()
    start, fresh = MaskedAdapter(tensors, Pruning(importance_refresh="start")), MaskedAdapter(parameters())
    fresh.commit(0.5)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.copy_(tensor.flip(0))
    start.commit(0.5)
    assert all(torch.equal(x, y) for x, y in zip(start.masks().values(), fresh.masks().values(), strict=True))


def test_an_untrained_B_waits_for_its_training_and_is_named_once(caplog):
    tensors = parameters() | {B: nn.Parameter(torch.zeros(5, 4))}
    masked = MaskedAdapter(tensors, Pruning(PARTS))
    with caplog.at_level(logging.WARNING):
        masked.commit(0.5)
        masked.commit(0.4)
    assert len(caplog.records) == 1
    assert "layer.lora_B[en], layer.lora_B[ar]" in caplog.text
    assert "lora_A" not in caplog.text
    assert masked.pending == ["layer.lora_B[en]", "layer.lora_B[ar]"]
    assert masked.masks()[B].all()
    with torch.no_grad():
        tensors[B].copy_(parameters()[B])
    masked.commit(0.4)
    assert not masked.pending
    assert masked.pruned_shares()["layer.lora_B[en]"] == 0.4


def test_many_ties_are_reported_once_by_name(caplog):
    tensors = {A: nn.Parameter(torch.ones(4, 6)), B: parameters()[B]}
    masked = MaskedAdapter(tensors, Pruning(PARTS))
    with caplog.at_level(logging.WARNING):
        masked.commit(0.5)
        masked.commit(0.4)
    assert len(caplog.records) == 1
    assert "p = 0.500 in layer.lora_A[en], layer.lora_A[ar]" in caplog.text


def many_units(count):
    parts = {"layer": tuple(SimpleNamespace(name=f"a{i}", start=i, stop=i + 1) for i in range(count))}
    tensors = {A: nn.Parameter(torch.ones(count, 6)), B: nn.Parameter(torch.zeros(5, count))}
    return tensors, Pruning(parts)


@pytest.mark.parametrize(("count", "more"), [(3, ""), (4, ""), (5, " and 1 more"), (7, " and 3 more")])
def test_a_report_names_four_units_and_counts_the_others(caplog, count, more):
    tensors, pruning = many_units(count)
    masked = MaskedAdapter(tensors, pruning)
    assert masked.p == 0.0
    assert masked.pending == []
    with caplog.at_level(logging.WARNING):
        masked.commit(0.5)
    named = [", ".join(f"layer.lora_{f}[a{i}]" for i in range(min(count, 4))) + more for f in "AB"]
    assert [record.getMessage() for record in caplog.records] == [
        f"tied scores prune more than p = 0.500 in {named[0]}",
        f"not pruned to p = 0.500 yet, being all zeros until they are trained: {named[1]}",
    ]


@pytest.mark.parametrize(("factor", "zeros", "nothing"), [(A, 4, True), (B, 4, True), (A, 2, False)])
def test_an_adapter_that_does_nothing(factor, zeros, nothing):
    tensors = parameters()
    assert not MaskedAdapter(tensors, Pruning(PARTS)).nothing_to_prune_by()
    with torch.no_grad():
        tensors[factor].narrow(0 if factor == A else 1, 0, zeros).zero_()
    assert MaskedAdapter(tensors, Pruning(PARTS)).nothing_to_prune_by() == nothing


def test_scores_from_the_start_are_those_of_the_first_training_where_the_start_is_all_zeros():
    tensors = parameters() | {B: nn.Parameter(torch.zeros(5, 4))}
    masked = MaskedAdapter(tensors, Pruning(PARTS, importance_refresh="start"))
    masked.commit(0.5)
    with torch.no_grad():
        tensors[B].copy_(parameters()[B])
    masked.commit(0.5)
    first = {n: m.clone() for n, m in masked.masks().items()}
    expected = MaskedAdapter(parameters(), Pruning(PARTS))
    expected.commit(0.5)
    assert all(torch.equal(m, first[n]) for n, m in expected.masks().items())
    with torch.no_grad():
        tensors[B].copy_(parameters(seed=1)[B])
    masked.commit(0.5)
    assert all(torch.equal(m, first[n]) for n, m in masked.masks().items())


def test_gradients_of_pruned_entries_are_zero_until_close():
    tensors = parameters()
    masked = MaskedAdapter(tensors, Pruning(PARTS))
    masked.commit(0.5)
    for _ in range(2):  # accumulated
        (tensors[B] @ tensors[A]).square().sum().backward()
    for name, mask in masked.masks().items():
        assert (tensors[name].grad[~mask] == 0).all()
        assert (tensors[name].grad[mask] != 0).all()
    held, kept = [t.grad.clone() for t in tensors.values()], masked.masks()
    live = {n: t.detach().clone().requires_grad_() for n, t in tensors.items()}
    (live[B] @ live[A]).square().sum().backward()
    for gradient, (name, mask) in zip(held, kept.items(), strict=True):
        torch.testing.assert_close(gradient, 2 * live[name].grad * mask)
    masked.close()
    tensors[A].grad = None
    (tensors[B] @ tensors[A]).square().sum().backward()
    assert torch.equal(tensors[A].grad, live[A].grad)


def test_a_dropped_adapter_leaves_gradients_alone():
    tensors = parameters()
    MaskedAdapter(tensors, Pruning(PARTS)).commit(0.5)
    with torch.no_grad():
        tensors[A].copy_(parameters()[A])
    (tensors[A].square().sum()).backward()
    assert torch.equal(tensors[A].grad, 2 * tensors[A].detach())


def test_a_probe_sees_what_was_trained_since_the_last_commit():
    tensors = parameters()
    masked = MaskedAdapter(tensors, Pruning(PARTS))
    masked.commit(0.25)
    with torch.no_grad():
        for tensor, new in zip(tensors.values(), parameters(seed=9).values(), strict=True):
            tensor.copy_(new)
    masked.zero_pruned()
    kept = masked.masks()
    dense = {  # what was pruned keeps its old value, the rest is what it is now
        n: nn.Parameter(torch.where(kept[n], tensors[n], old)) for n, old in parameters().items()
    }
    expected = MaskedAdapter(dense, Pruning(PARTS))
    expected.commit(0.5)
    with masked.probing([0.5]) as apply:
        apply(0)
        assert all(torch.equal(tensors[n], dense[n]) for n in tensors)


@pytest.mark.parametrize("refresh", ["round", "start"])
def test_restored_state_continues_identically(refresh):
    runs = []
    for interrupted in (False, True):
        tensors = parameters()
        masked = MaskedAdapter(tensors, Pruning(PARTS, importance_refresh=refresh))
        masked.commit(0.6)
        optimizer = torch.optim.SGD(tensors.values(), lr=0.1)
        train(tensors, optimizer, masked)
        if interrupted:
            state = {k: v.clone() for k, v in masked.state_dict().items()}
            weights = values(tensors)
            tensors = parameters(seed=5)
            masked = MaskedAdapter(tensors, Pruning(PARTS, importance_refresh=refresh))
            with torch.no_grad():
                torch._foreach_copy_(list(tensors.values()), weights)
            masked.load_state_dict(state)
            optimizer = torch.optim.SGD(tensors.values(), lr=0.1)
        train(tensors, optimizer, masked, seed=2)
        masked.commit(0.3)
        runs.append(values(tensors))
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))


def test_a_commit_says_what_changed_and_what_went_back():
    """By hand: one factor of 8 entries, of which p prunes the lowest 8 p."""
    values = torch.arange(1.0, 9.0).reshape(2, 4)
    tensors = {A: nn.Parameter(values.clone())}
    masked = MaskedAdapter(tensors)
    assert masked.commit(0.5) == (0.0, 0.0)  # there was no mask before
    assert masked.commit(0.25) == (2 / 8, 0.0)  # 3 and 4 are revived, for the first time
    assert masked.commit(0.25) == (0.0, 0.0)
    assert masked.commit(0.75) == (4 / 8, 2 / 4)  # 3 and 4 go back; 5 and 6 are new
    assert masked.commit(0.25) == (4 / 8, 1.0)  # all of them changed before, 3 and 4 twice
    assert masked.commit(0.75) == (4 / 8, 1.0)
    restored = MaskedAdapter({A: nn.Parameter(values.clone())})
    restored.load_state_dict(masked.state_dict())
    assert restored.commit(0.625) == masked.commit(0.625) == (1 / 8, 1.0)


def test_moments_are_kept_where_nothing_is_to_clear_them():
    tensors = parameters()
    optimizer = torch.optim.AdamW(tensors.values(), lr=0.1)
    masked = MaskedAdapter(tensors)
    train(tensors, optimizer, masked)
    masked.commit(0.5)
    for name, mask in masked.masks().items():
        assert (optimizer.state[tensors[name]]["exp_avg"][~mask] != 0).all()


def test_a_unit_one_hundredth_beyond_p_is_no_tie_to_speak_of(caplog):
    entries = torch.arange(1.0, 101.0)
    entries[49] = entries[48]
    masked = MaskedAdapter({A: nn.Parameter(entries.reshape(10, 10))})
    masked.commit(0.49)
    assert masked.pruned_shares() == {"layer.lora_A": 0.5}
    assert "tied" not in caplog.text


def test_a_mask_for_each_parameter():
    tensors = parameters()
    optimizer = torch.optim.AdamW(tensors.values(), lr=0.1)
    with pytest.raises(ValueError, match="shorter"):
        reset_optimizer_state(optimizer, list(tensors.values()), [torch.ones(4, 6, dtype=torch.bool)])
