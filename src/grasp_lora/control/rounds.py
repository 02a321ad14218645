"""What a controller round leaves: one line of `rounds.jsonl`, and its seconds in `timings.jsonl`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from grasp_lora.errors import GraspError
from grasp_lora.ratios import Numbers, PerAdapter, PruneRatio, Several, each

__all__ = ["PROBES_FILE", "ROUNDS_FILE", "TIMINGS_FILE", "Probe", "Round", "read_rounds"]

ROUNDS_FILE = "rounds.jsonl"
PROBES_FILE = "probes.jsonl"  # the examples' rewards at each ratio
TIMINGS_FILE = "timings.jsonl"  # apart, so that two equal runs write the same rounds byte for byte


@dataclass(frozen=True, slots=True)
class Probe:
    """One candidate: the draw `z`, the ratio `p` and its relative reward R = R~(p) - R~(p_curr)."""

    z: Numbers
    p: PruneRatio
    reward: float
    standard_error: float | None = None  # of R, over the examples; None where the reward tells none


@dataclass(frozen=True, slots=True)
class Round:
    """One line of `rounds.jsonl`: the policy that drew, what it saw, and what follows from it.

    Where each adapter of a merge has a ratio of its own, so have mu, sigma and z one for each: lists in JSON.
    """

    round: int
    step: int  # optimizer steps so far
    p_curr: PruneRatio
    mu: PruneRatio
    sigma: Numbers
    base_reward: float  # R~(p_curr), absolute
    probes: tuple[Probe, ...]
    committed: bool
    p_next: PruneRatio
    mu_next: PruneRatio
    sigma_next: Numbers
    mask_changed: float = 0.0  # share of all entries that the commit pruned or revived
    mask_reverted: float = 0.0  # share of those that an earlier commit had changed: they only went back

    def log_values(self, adapters: Sequence[str] = ()) -> dict[str, float]:
        """What a training log shows of a round.

        Args:
            adapters: Their names, where each has a ratio of its own: `grasp/p_curr/NAME`.
        """
        clamped = sum(probe.z != probe.p for probe in self.probes) / len(self.probes)
        return {
            **_by_adapter("grasp/p_curr", self.p_next, adapters),
            **_by_adapter("grasp/mu", self.mu_next, adapters),
            **_by_adapter("grasp/sigma", self.sigma_next, adapters),
            "grasp/base_reward": self.base_reward,
            "grasp/best_reward": max(probe.reward for probe in self.probes),
            "grasp/mean_reward": sum(probe.reward for probe in self.probes) / len(self.probes),
            "grasp/clamped_share": clamped,
            "grasp/mask_changed": self.mask_changed,
            "grasp/mask_reverted": self.mask_reverted,
        }

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Round":
        fields: dict[str, Any] = json.loads(line)
        probes = tuple(Probe(**_typed(probe)) for probe in fields.pop("probes"))
        return cls(**_typed(fields), probes=probes)


def read_rounds(folder: Path) -> tuple[Round, ...]:
    """The rounds that a controller wrote into `folder`.

    Raises:
        GraspError: There is no such file, or it holds something else.
    """
    path = folder / ROUNDS_FILE
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise GraspError(f"{path} cannot be read as rounds: {error.strerror}") from None
    rounds = []
    for number, line in enumerate(lines, 1):
        try:
            rounds.append(_ROUND.validate_json(line))
        except ValueError:
            raise GraspError(_damaged(path, number, "is no round, or not a whole one")) from None
        if not _is_possible(rounds[-1]):
            raise GraspError(_damaged(path, number, "has no probes, or a number that no round has"))
    if not rounds:
        raise GraspError(f"{path} holds no round: make it again, with --force")
    return tuple(rounds)


def _by_adapter(name: str, value: Numbers, adapters: Sequence[str]) -> dict[str, float]:
    """One value by its name, or several by those of their adapters."""
    if not isinstance(value, Several):
        return {name: value}
    names = adapters or [str(i) for i in range(len(value))]
    return {f"{name}/{own}": x for own, x in zip(names, value, strict=True)}


def _typed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of numbers as what they were."""
    free = ("z", "sigma", "sigma_next")
    return {
        key: (Several if key in free else PerAdapter)(value) if isinstance(value, list) else value
        for key, value in fields.items()
    }


def _damaged(path: Path, line: int, why: str) -> str:
    return f"{path} cannot be read as rounds: line {line} {why}: make it again, with --force"


_ROUND = TypeAdapter(Round)
_LARGEST = 1e30  # nats, and whatever else; a policy refuses what is not finite


def _is_possible(one: Round) -> bool:
    ratios = [one.p_curr, one.p_next, *(probe.p for probe in one.probes)]
    drawn = [one.mu, one.sigma, one.mu_next, one.sigma_next, *(probe.z for probe in one.probes)]
    rewards = [one.base_reward, *(probe.reward for probe in one.probes)]
    rewards += [probe.standard_error or 0.0 for probe in one.probes]
    numbers = [*rewards, *(number for value in drawn for number in each(value))]
    alike = len({len(each(value)) if isinstance(value, Several) else 0 for value in (*ratios, *drawn)}) == 1
    possible = all(0.0 <= p <= 1.0 for ratio in ratios for p in each(ratio))
    return possible and alike and all(abs(value) < _LARGEST for value in numbers) and bool(one.probes)
