"""One ratio for all entries stays what it was before there could be several: the same bytes.

`python -m tests.control.test_one_ratio` writes the files of `golden/` anew.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from grasp_lora.control.controller import GraspController
from grasp_lora.control.policy import RatioPolicy, UniformPolicy

GOLDEN = Path(__file__).parent / "golden"
POLICIES = {
    "gaussian": lambda: RatioPolicy(seed=3),
    "wide": lambda: RatioPolicy(p_min=0, p_max=1, p_init=0.5, sigma_init=0.4, candidates=5, d_max=0.2),
    "uniform": lambda: UniformPolicy(p_min=0.0, seed=5),
}


def simulated(policy):
    """Rounds of a policy alone, whose reward has its top at 0.55, and its state at the end."""
    lines = []
    for _ in range(12):
        candidates = policy.ask()
        update = policy.tell(candidates, [-((c.p - 0.55) ** 2) for c in candidates], -0.02)
        drawn = [[c.z, c.p, c.clamped] for c in candidates]
        moved = [update.relative_rewards, update.committed, update.p_curr, update.mu, update.sigma]
        lines.append(json.dumps([drawn, moved]))
    return "\n".join([*lines, json.dumps(policy.state_dict())]) + "\n"


class Tiny(nn.Module):
    """One LoRA site, of numbers that every machine adds up alike: eighths."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Module()
        for factor, shape in (("lora_A", (4, 6)), ("lora_B", (5, 4))):
            held = nn.Module()
            numbers = (torch.arange(shape[0] * shape[1]) * 7 % 23 + 1).view(shape) / 8.0
            held.weight = nn.Parameter(numbers)
            setattr(self.layer, factor, nn.ModuleDict({"default": held}))

    def forward(self):
        return self.layer.lora_B["default"].weight.sum() + self.layer.lora_A["default"].weight.sum()


def reward(model):
    """By example: what is left of each row of A, as if 9 were right."""
    return -(model.layer.lora_A["default"].weight.sum(1) - 9.0).abs()


def rounds(folder):
    """Of a controller in a plain loop."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    policy = RatioPolicy(p_min=0.0, seed=7)
    controller = GraspController(model, optimizer, reward, policy=policy, every=2, folder=folder)
    for _ in range(16):
        model().backward()
        optimizer.step()
        optimizer.zero_grad()
        controller.after_optimizer_step()
    controller.look(reward).write(folder)
    names = ("rounds.jsonl", "probes.jsonl", "on_dev.json")
    state = json.dumps({k: controller.state_dict()[k] for k in ("settings", "policy", "rounds")})
    return {**{name: (folder / name).read_text() for name in names}, "state.json": state + "\n"}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policys_numbers(name):
    assert simulated(POLICIES[name]()) == (GOLDEN / f"{name}.jsonl").read_text()


def test_a_controllers_files(tmp_path):
    for name, text in rounds(tmp_path).items():
        assert text == (GOLDEN / name).read_text(), name


def _write() -> None:
    import tempfile

    GOLDEN.mkdir(exist_ok=True)
    for name, policy in POLICIES.items():
        (GOLDEN / f"{name}.jsonl").write_text(simulated(policy()))
    with tempfile.TemporaryDirectory() as folder:
        for name, text in rounds(Path(folder)).items():
            (GOLDEN / name).write_text(text)


if __name__ == "__main__":
    _write()
