"""A controller round: probe candidate ratios on the micro-dev set, update the policy, commit.

GRASP LoRA, Sec. 3.3. Works from a plain PyTorch loop; `GraspCallback` does the same in a Trainer.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from grasp_lora.control.masked import ImportanceRefresh, MaskedAdapter
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.control.pruning import AdapterPart, UnitKind, adapter_parameters
from grasp_lora.errors import GraspError
from grasp_lora.lm.loss import evaluation_mode

__all__ = ["GraspController", "GraspResult", "Probe", "Reward", "Round", "SelectionRule", "select_ratio"]

logger = logging.getLogger(__name__)

Reward = Callable[[nn.Module], float]
SelectionRule = Literal["best", "last", "policy_mean"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One candidate: the draw `z`, the ratio `p` and its relative reward R = R~(p) - R~(p_curr)."""

    z: float
    p: float
    reward: float


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
        }

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Round":
        fields: dict[str, Any] = json.loads(line)
        return cls(**fields | {"probes": tuple(Probe(**probe) for probe in fields["probes"])})


@dataclass(frozen=True, slots=True)
class GraspResult:
    """What the rounds so far have taught; `best_ratio` is p*."""

    best_ratio: float
    best_reward: float | None  # absolute micro-dev reward seen at p*; None where the rule does not look at it
    rule: SelectionRule
    rounds: tuple[Round, ...]


def select_ratio(rounds: Sequence[Round], rule: SelectionRule = "best") -> GraspResult:
    """Choose p* from the log.

    "best" (Sec. 3.3, "Logging and selecting p*"): the highest absolute micro-dev reward anywhere in the
    log, R~(p_curr) at p_curr and R~(p_curr) + R_i at p_i; the earlier one on a tie. "last": the
    committed ratio at the end. "policy_mean": mu at the end.

    Raises:
        GraspError: There is no round.
    """
    if not rounds:
        raise GraspError("no controller round was made: train for at least K optimizer steps (control.every)")
    if rule == "last":
        return GraspResult(rounds[-1].p_next, None, rule, tuple(rounds))
    if rule == "policy_mean":
        return GraspResult(rounds[-1].mu_next, None, rule, tuple(rounds))
    seen = [
        (reward, p)
        for r in rounds
        for reward, p in [(r.base_reward, r.p_curr), *((r.base_reward + x.reward, x.p) for x in r.probes)]
    ]
    reward, p = max(seen, key=lambda pair: pair[0])  # max keeps the first of equals
    return GraspResult(p, reward, rule, tuple(rounds))


class GraspController:
    """Learns the prune ratio of a LoRA adapter while it is trained.

    Construct it before the first step (it prunes to `p_init`, but for what is all zeros, as a new adapter's B
    is: that it prunes from the first round on), call `after_optimizer_step` after every optimizer step, read
    `result`. Until `close`, gradients of pruned entries are zero.

    Args:
        model: A PEFT model; its trainable LoRA factors are pruned.
        optimizer: The one that trains them.
        reward: Called with the model in eval mode, without gradients; returns a number to maximise.
            The paper's is minus the micro-dev loss: see `grasp_lora.lm.loss.TargetLoss`. In a distributed run
            every rank calls it, and the mean over the ranks counts.
        policy: The policy over the ratio; None is `RatioPolicy()`.
        every: K, optimizer steps per round.
        parts: For a merged adapter, which rows and columns came from which adapter (`read_parts`).
        unit, importance_refresh: See `MaskedAdapter`.
        select: How `result` chooses p*; see `select_ratio`.
        folder: Where `rounds.jsonl` and `timings.jsonl` are written, one line a round; None writes nothing.
        on_round: Called after each round with it and its seconds.

    Example:
        >>> controller = GraspController(model, optimizer, reward)  # doctest: +SKIP
        >>> for batch in loader:  # doctest: +SKIP
        ...     model(**batch).loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     controller.after_optimizer_step()
        >>> controller.result.best_ratio  # doctest: +SKIP
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        reward: Reward,
        *,
        policy: RatioPolicy | None = None,
        every: int = 10,
        parts: Mapping[str, Sequence[AdapterPart]] | None = None,
        unit: UnitKind = "adapter",
        importance_refresh: ImportanceRefresh = "round",
        select: SelectionRule = "best",
        folder: Path | None = None,
        on_round: Callable[[Round, float], None] | None = None,
    ) -> None:
        if every < 1:
            raise GraspError(f"every must be at least 1, got {every}")
        self.model, self.optimizer, self.reward = model, optimizer, reward
        self.policy = policy or RatioPolicy()
        self.every, self.select, self.folder, self.on_round = every, select, folder, on_round
        self.masked = MaskedAdapter(
            adapter_parameters(model), parts, unit=unit, importance_refresh=importance_refresh
        )
        self.step = 0
        self.rounds: list[Round] = []
        self.masked.commit(self.policy.p_curr, optimizer)

    @property
    def result(self) -> GraspResult:
        """p* and the rounds so far."""
        return select_ratio(self.rounds, self.select)

    def after_optimizer_step(self) -> Round | None:
        """Keep pruned entries at zero; every K steps make a round and return it."""
        self.step += 1
        self.masked.zero_pruned()
        return self._round() if self.step % self.every == 0 else None

    def close(self) -> None:
        """Training ends: leave gradients alone from now on. The adapter stays pruned at `policy.p_curr`."""
        self.masked.close()

    def _round(self) -> Round:
        start = time.perf_counter()
        if self.masked.pending:
            self.masked.commit(self.policy.p_curr, self.optimizer)
        policy, mu, sigma, p_curr = self.policy, self.policy.mu, self.policy.sigma, self.policy.p_curr
        candidates = policy.ask()
        base, rewards, evaluating = self._evaluate([c.p for c in candidates])
        update = policy.tell(candidates, rewards, base)
        if update.committed:
            self.masked.commit(update.p_curr, self.optimizer)
        probes = tuple(Probe(c.z, c.p, r) for c, r in zip(candidates, update.relative_rewards, strict=True))
        made = Round(
            round=len(self.rounds) + 1,
            step=self.step,
            p_curr=p_curr,
            mu=mu,
            sigma=sigma,
            base_reward=base,
            probes=probes,
            committed=update.committed,
            p_next=update.p_curr,
            mu_next=update.mu,
            sigma_next=update.sigma,
        )
        self.rounds.append(made)
        seconds = time.perf_counter() - start
        self._write("rounds.jsonl", made.to_json())
        timing = {"round": made.round, "seconds": seconds, "reward_seconds": evaluating}
        self._write("timings.jsonl", json.dumps(timing))
        if self.on_round is not None:
            self.on_round(made, seconds)
        return made

    def _evaluate(self, ratios: Sequence[float]) -> tuple[float, list[float], float]:
        """R~(p_curr), R~(p_i) for every ratio, and the seconds that the reward itself took."""
        seconds = 0.0
        known: dict[float, float] = {}  # candidates clamped to one bound share one mask

        def evaluate(p: float) -> float:
            nonlocal seconds
            start = time.perf_counter()
            value = self._mean_over_ranks(float(self.reward(self.model)))
            seconds += time.perf_counter() - start
            if not math.isfinite(value):
                raise GraspError(f"the reward at step {self.step} and p = {p:.4f} is {value}")
            return value

        with evaluation_mode(self.model):
            base = evaluate(self.policy.p_curr)
            with self.masked.probing(ratios) as apply:
                for i, p in enumerate(ratios):
                    if p not in known:
                        apply(i)
                        known[p] = evaluate(p)
        return base, [known[p] for p in ratios], seconds

    def _mean_over_ranks(self, reward: float) -> float:
        """The same number on every rank, whatever each one's reward looked at: their policies stay in
        step.
        """
        if not torch.distributed.is_initialized():
            return reward
        total = torch.tensor(reward, dtype=torch.float64, device=self.masked.parameters[0].device)
        torch.distributed.all_reduce(total)
        return total.item() / torch.distributed.get_world_size()

    def _write(self, name: str, line: str) -> None:
        if self.folder is not None and _is_main_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def _is_main_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
