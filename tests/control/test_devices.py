"""A backbone that is spread over several devices: nothing of two devices meets in one operation."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorDeviceMismatchError, FakeTensorMode
from torch.optim import AdamW

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.merge_prune import StepPruner
from grasp_lora.control.pruning import numbers
from grasp_lora.control.units import Pruning

TENSOR = torch.tensor


def like(values, *, device=None, dtype=None):
    """`torch.tensor`, which would forget a fake device's number; what is in it does not matter."""
    if device is None:
        return TENSOR(values, dtype=dtype)
    kind = torch.bool if isinstance(values[0], bool) else torch.long
    return torch.empty(len(values), dtype=kind, device=device)


@pytest.fixture
def spread(monkeypatch):
    """A and B of four sites, the first two on one device, the others on another one; neither need exist."""
    monkeypatch.setattr(FakeTensor, "tolist", lambda self: [1.0] * self.numel())  # fake ones have no values
    monkeypatch.setattr(torch, "tensor", like)
    monkeypatch.setattr(torch, "equal", lambda one, other: one.device == other.device)
    with FakeTensorMode(), torch.no_grad():
        yield {
            f"layers.{layer}.q_proj.lora_{kind}.default.weight": torch.nn.Parameter(
                torch.randn(shape, device=f"cpu:{1 + layer // 2}")
            )
            for layer in range(4)
            for kind, shape in (("A", (2, 6)), ("B", (6, 2)))
        }


def test_scalars_of_several_devices_are_read_together(monkeypatch):
    monkeypatch.setattr(FakeTensor, "tolist", lambda self: [str(self.device)] * len(self))
    with FakeTensorMode(), torch.no_grad():
        scalars = [torch.zeros(3, device=f"xpu:{number}").sum() for number in (0, 1, 0)]
        with pytest.raises(FakeTensorDeviceMismatchError):
            torch.stack(scalars)
        assert numbers(scalars) == ["xpu:0"] * 3
    assert numbers([]) == []


@pytest.mark.parametrize("refresh", ["round", "start"])
def test_masks_and_thresholds_stay_on_their_devices(spread, refresh):
    masked = MaskedAdapter(spread, Pruning(importance_refresh=refresh))
    optimizer = AdamW(spread.values())
    for parameter in spread.values():
        optimizer.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}
    for p in (0.5, 0.25):
        masked.commit(p, optimizer)
    with masked.probing([0.1, 0.9]) as apply:
        apply(0)
        apply(1)
    masked.zero_pruned()
    assert masked.pruned_shares().keys() == masked.importances().keys() == masked.pruned_norms().keys()
    masked.load_state_dict(masked.state_dict())
    devices = [mask.device for mask in masked.masks().values()]
    assert devices == [parameter.device for parameter in spread.values()]
    assert len(set(devices)) == 2


@pytest.mark.parametrize("unit", ["parameter", "module"])
def test_resets_stay_on_their_devices(spread, unit):
    pruner = StepPruner(spread, p=0.5, unit=unit, value="init", threshold=0.1)
    keep = pruner.prune([parameter.detach().abs() for parameter in spread.values()])
    assert [mask.device for mask in keep] == [parameter.device for parameter in spread.values()]
