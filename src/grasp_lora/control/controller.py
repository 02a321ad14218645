"""A controller round: probe candidate ratios on the micro-dev set, update the policy, commit.

GRASP LoRA, Sec. 3.3. Works from a plain PyTorch loop; `GraspCallback` does the same in a Trainer.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from grasp_lora.control.masked import MaskedAdapter
from grasp_lora.control.noise import MARGIN, Look
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.control.probing import Prober, Reward, Seen
from grasp_lora.control.rounds import PROBES_FILE, ROUNDS_FILE, TIMINGS_FILE, Probe, Round
from grasp_lora.control.selection import GraspResult, SelectionRule, select_ratio
from grasp_lora.control.units import (
    ImportanceRefresh,
    Parts,
    Pruning,
    UnitKind,
    adapter_parameters,
    ratios_of_units,
)
from grasp_lora.errors import GraspError, check_choice
from grasp_lora.lm.checkpoints import CannotGoOn, check_settings, plain
from grasp_lora.lm.sharded import average_gradients
from grasp_lora.ranks import is_first
from grasp_lora.ratios import PruneRatio, unpruned

__all__ = ["EVERY", "GraspController"]

EVERY = 10  # K, optimizer steps per round (Table 7)
_LOGS = (ROUNDS_FILE, PROBES_FILE, TIMINGS_FILE)


class GraspController:
    """Learns the prune ratio of a LoRA adapter while it is trained.

    Construct it before the first step (it prunes to `p_init`, but for what is all zeros, as a new adapter's B
    is: that it prunes from the first round on), call `after_optimizer_step` after every optimizer step, read
    `result`. Until `close`, gradients of pruned entries are zero.

    Args:
        model: A PEFT model; its trainable LoRA factors are pruned.
        optimizer: The one that trains them.
        reward: Called with the model in eval mode, without gradients; returns a number to maximise, or those
            of some examples, (examples,), whose mean counts. The paper's is minus the micro-dev loss: see
            `grasp_lora.lm.loss.TargetLoss`. In a distributed run every rank calls it, and the mean over the
            ranks counts.
        policy: The policy over the ratio; None is `RatioPolicy()`. With `RatioPolicy(adapters=2)` each of the
            two parts has a ratio of its own.
        every: K, optimizer steps per round.
        parts: For a merged adapter, which rows and columns came from which adapter (`read_parts`).
        unit, importance_refresh: See `Pruning`.
        select, margin: How `result` chooses p*; see `select_ratio`.
        groups: Of each of the reward's examples, such as its passage: those of one group are one cluster in
            the standard error of a probe; () is a group of its own for each.
        reset_moments: Whether a commit clears the optimizer's moments of entries that it prunes or revives.
        folder: Where `rounds.jsonl` and `timings.jsonl` are written, one line a round, and the examples'
            rewards as `probes.jsonl`; None writes nothing.
        on_round: Called after each round with it and its seconds.
        state: What `state_dict` gave, to go on there: the model's weights and the optimizer's state must be
            those of that moment. What the logs in `folder` have beyond it is cut off.

    Raises:
        GraspError: The state is not that of such an adapter, or of these weights; or the policy has not a
            ratio for each of the parts.

    Examples:
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
        every: int = EVERY,
        parts: Parts | None = None,
        unit: UnitKind = "adapter",
        importance_refresh: ImportanceRefresh = "round",
        select: SelectionRule = "best",
        margin: float = MARGIN,
        groups: Sequence[str] = (),
        reset_moments: bool = True,
        folder: Path | None = None,
        on_round: Callable[[Round, float], None] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        if every < 1:
            raise GraspError(f"every must be at least 1, got {every}")
        check_choice("select", select, SelectionRule)
        self.model, self.optimizer = model, optimizer
        self.policy = policy or RatioPolicy()
        self.every, self.select, self.margin = every, select, margin
        self.folder, self.on_round, self.groups = folder, on_round, groups
        self._pruning = Pruning(parts, unit, importance_refresh)
        parameters = adapter_parameters(model)
        average_gradients(model, parameters.values())
        self.masked = MaskedAdapter(parameters, self._pruning)
        ratios_of_units(self.masked.units, self.masked.adapters, self.policy.p_curr)  # checks how many
        self.prober = Prober(model, self.masked, reward)
        self.step = 0
        self.rounds: list[Round] = []
        self._moments = optimizer if reset_moments else None
        if state is None:
            self.masked.commit(self.policy.p_curr, self._moments)
        else:
            self._go_on_from(state)

    @property
    def result(self) -> GraspResult:
        """p* and the rounds so far."""
        return select_ratio(self.rounds, self.select, self.margin)

    def after_optimizer_step(self) -> Round | None:
        """Keep pruned entries at zero; every K steps make a round and return it."""
        self.step += 1
        self.masked.zero_pruned()
        return self._round() if self.step % self.every == 0 else None

    def look(self, reward: Reward, groups: Sequence[str] = ()) -> Look:
        """p*, no pruning and p*'s neighbours under another reward, such as minus the loss of dev rows; of
        several ratios, those where one is d_max lower or higher. The policy is not told.

        Raises:
            GraspError: No round was made, or a reward is not a finite number.
        """
        p = self.result.best_ratio
        ratios = sorted({unpruned(p), p, *self.policy.near(p)})
        seen = []
        for asked in (Prober(self.model, self.masked, reward), self.prober):
            found = zip(ratios, asked.at(ratios), strict=True)
            seen.append({ratio: one.by_example or (one.mean,) for ratio, one in found})
        return Look(p, seen[0], seen[1], self.margin, tuple(groups))

    def settings(self) -> dict[str, Any]:
        """What the rounds of one log have in common, for JSON."""
        moving = ("p_curr", "mu", "sigma")
        policy = {k: v for k, v in vars(self.policy).items() if not k.startswith("_") and k not in moving}
        if self.policy.adapters is None:  # as states have it from before there could be several ratios
            del policy["adapters"]
        found = {"every": self.every, **self._pruning.settings(), "reset_moments": self._moments is not None}
        found |= {"policy": type(self.policy).__name__, **{f"policy.{k}": v for k, v in policy.items()}}
        return json.loads(json.dumps(found, default=str))  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        """All that later rounds depend on but the optimizer's state: tensors, and values for JSON."""
        return {
            "settings": self.settings(),
            "step": self.step,
            "rounds": [made.to_json() for made in self.rounds],
            "policy": self.policy.state_dict(),
            "logs": {name: self._size(name) for name in _LOGS},
            **self.masked.state_dict(),
        }

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        check_settings(state.get("settings"), self.settings(), "the controller's state")
        try:
            self.step = int(state["step"])
            self.rounds = [Round.from_json(line) for line in state["rounds"]]
            self.policy.load_state_dict(state["policy"])
            self.masked.go_on_from(state)
            logs = {name: int(state["logs"][name]) for name in _LOGS}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CannotGoOn(
                f"the controller's state does not fit this training ({plain(error)}): go on with the adapter "
                "that it was saved with, or train from the start"
            ) from None
        if self._size(ROUNDS_FILE) < logs[ROUNDS_FILE]:  # not all of it was on the disk when the power went
            self._cut(ROUNDS_FILE, 0)
            for made in self.rounds:
                self._write(ROUNDS_FILE, made.to_json())
        for name, size in logs.items():
            self._cut(name, size)

    def close(self) -> None:
        """Training ends: leave gradients alone from now on. The adapter stays pruned at `policy.p_curr`."""
        self.masked.close()

    def _round(self) -> Round:
        start = time.perf_counter()
        changed = reverted = 0.0
        if self.masked.pending:
            changed, reverted = self.masked.commit(self.policy.p_curr, self._moments)
        policy, mu, sigma, p_curr = self.policy, self.policy.mu, self.policy.sigma, self.policy.p_curr
        candidates, before = policy.ask(), self.prober.seconds
        try:
            base, seen = self.prober.base(), self.prober.at([c.p for c in candidates])
        except GraspError as error:
            raise GraspError(f"step {self.step}: {error}") from None
        update = policy.tell(candidates, [one.mean for one in seen], base.mean)
        if update.committed:
            changed, reverted = self.masked.commit(update.p_curr, self._moments)
        probes = tuple(
            Probe(c.z, c.p, r, one.error_against(base, self.groups))
            for c, r, one in zip(candidates, update.relative_rewards, seen, strict=True)
        )
        made = Round(
            round=len(self.rounds) + 1,
            step=self.step,
            p_curr=p_curr,
            mu=mu,
            sigma=sigma,
            base_reward=base.mean,
            probes=probes,
            committed=update.committed,
            p_next=update.p_curr,
            mu_next=update.mu,
            sigma_next=update.sigma,
            mask_changed=changed,
            mask_reverted=reverted,
        )
        self.rounds.append(made)
        seconds = time.perf_counter() - start
        self._write(ROUNDS_FILE, made.to_json())
        if base.by_example:
            at: dict[PruneRatio, Seen] = {p_curr: base} | {
                c.p: one for c, one in zip(candidates, seen, strict=True)
            }
            for p, one in at.items():
                line = {"round": made.round, "p": p, "rewards": one.by_example}
                self._write(PROBES_FILE, json.dumps(line))
        timing = {"round": made.round, "seconds": seconds, "reward_seconds": self.prober.seconds - before}
        self._write(TIMINGS_FILE, json.dumps(timing))
        if self.on_round is not None:
            self.on_round(made, seconds)
        return made

    def _size(self, name: str) -> int:
        path = None if self.folder is None else self.folder / name
        return path.stat().st_size if path is not None and path.exists() else 0

    def _cut(self, name: str, size: int) -> None:
        """Leave of a log what was there at the checkpoint."""
        if is_first() and self._size(name) > size:
            assert self.folder is not None
            os.truncate(self.folder / name, size)

    def _write(self, name: str, line: str) -> None:
        if self.folder is not None and is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
