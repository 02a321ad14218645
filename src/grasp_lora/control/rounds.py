"""What a controller round leaves: one line of `rounds.jsonl`, and its seconds in `timings.jsonl`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from grasp_lora.errors import GraspError

__all__ = ["PROBES_FILE", "ROUNDS_FILE", "TIMINGS_FILE", "Probe", "Round", "read_rounds"]

ROUNDS_FILE = "rounds.jsonl"
PROBES_FILE = "probes.jsonl"  # the examples' rewards at each ratio
TIMINGS_FILE = "timings.jsonl"  # apart, so that two equal runs write the same rounds byte for byte


@dataclass(frozen=True, slots=True)
class Probe:
    """One candidate: the draw `z`, the ratio `p` and its relative reward R = R~(p) - R~(p_curr)."""

    z: float
    p: float
    reward: float
    standard_error: float | None = None  # of R, over the examples; None where the reward tells none


@dataclass(frozen=True, slots=True)
class Round:
    """One line of `rounds.jsonl`: the policy that drew, what it saw, and what follows from it."""

    round: int
    step: int  # optimizer steps so far
    p_curr: float
    mu: float
    sigma: float
    base_reward: float  # R~(p_curr), absolute
    probes: tuple[Probe, ...]
    committed: bool
    p_next: float
    mu_next: float
    sigma_next: float
    mask_changed: float = 0.0  # share of all entries that the commit pruned or revived
    mask_reverted: float = 0.0  # share of those that an earlier commit had changed: they only went back

    def log_values(self) -> dict[str, float]:
        """What a training log shows of a round."""
        clamped = sum(probe.z != probe.p for probe in self.probes) / len(self.probes)
        return {
            "grasp/p_curr": self.p_next,
            "grasp/mu": self.mu_next,
            "grasp/sigma": self.sigma_next,
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
        return cls(**fields | {"probes": tuple(Probe(**probe) for probe in fields["probes"])})


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


def _damaged(path: Path, line: int, why: str) -> str:
    return f"{path} cannot be read as rounds: line {line} {why}: make it again, with --force"


_ROUND = TypeAdapter(Round)
_LARGEST = 1e30  # nats, and whatever else; a policy refuses what is not finite


def _is_possible(one: Round) -> bool:
    ratios = [one.p_curr, one.p_next, *(probe.p for probe in one.probes)]
    numbers = [one.mu, one.sigma, one.base_reward, one.mu_next, one.sigma_next]
    numbers += [
        value for probe in one.probes for value in (probe.z, probe.reward, probe.standard_error or 0.0)
    ]
    possible = all(0.0 <= p <= 1.0 for p in ratios) and all(abs(value) < _LARGEST for value in numbers)
    return possible and bool(one.probes)
