"""The controller's policy: a Gaussian over one number, the global prune ratio p.

Ask it for candidate ratios, tell it their rewards. Symbols and equation numbers are those of
GRASP LoRA, Sec. 3.3. Nothing here knows about models: numbers in, numbers out.

Of a ratio for each adapter of a merge it is a Gaussian each, and every equation holds for each by itself;
a candidate's reward is that of all its ratios together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grasp_lora.errors import GraspError
from grasp_lora.ratios import MOST, Numbers, PerAdapter, PruneRatio, Several, each

__all__ = ["Candidate", "RatioPolicy", "UniformPolicy", "Update"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One draw: `z` from the Gaussian, and `p`, the same value clamped to the allowed range."""

    z: Numbers
    p: PruneRatio

    @property
    def clamped(self) -> bool:
        return self.z != self.p


@dataclass(frozen=True, slots=True)
class Update:
    """What one `tell` did. All values but `relative_rewards` are after the update."""

    relative_rewards: tuple[float, ...]  # R_i = R~(p_i) - R~(p_curr), one per candidate
    committed: bool
    p_curr: PruneRatio
    mu: PruneRatio
    sigma: Numbers


class RatioPolicy:
    """GRPO policy over the prune ratio, GRASP LoRA Eqs. (2) to (6); or over one for each of several adapters.

    Several are never all 1, which would leave nothing: where they would be, the lowest draw's is 0.99.

    Args:
        adapters: How many have a ratio of their own; None: one ratio for all entries. The other arguments are
            those of each; with `p_min=0.0, p_max=1.0` it may keep or drop an adapter whole.
        p_min, p_max: Bounds of the ratio, in [0, 1].
        p_init: The first committed ratio, and the first mean mu.
        candidates: C, ratios drawn per round.
        eta: Step size of the policy gradient.
        beta: Weight of the mean's anchor to the committed ratio.
        tau: Exploration bonus added to sigma each round.
        d_max: Largest change of the committed ratio in one round.
        sigma_init: First standard deviation; None is (p_max - p_min) / 6.
        sigma_min: Floor of the standard deviation.
        seed: Seeds the policy's own random generator; no global generator is touched.

    The defaults are the paper's (Table 7).

    Raises:
        GraspError: An argument is out of its range; the message names it.

    Examples:
        >>> policy = RatioPolicy(seed=42)
        >>> candidates = policy.ask()
        >>> update = policy.tell(candidates, [-2.1, -2.0, -2.3], base_reward=-2.05)
        >>> policy.p_curr == update.p_curr
        True
    """

    def __init__(
        self,
        *,
        adapters: int | None = None,
        p_min: float = 0.10,
        p_max: float = 0.80,
        p_init: float = 0.40,
        candidates: int = 3,
        eta: float = 0.05,
        beta: float = 0.05,
        tau: float = 0.01,
        d_max: float = 0.10,
        sigma_init: float | None = None,
        sigma_min: float = 1e-3,
        seed: int = 42,
    ) -> None:
        if not 0.0 <= p_min <= p_init <= p_max <= 1.0:
            raise GraspError(f"need 0 <= p_min <= p_init <= p_max <= 1, got {p_min}, {p_init}, {p_max}")
        if adapters is not None and (adapters < 2 or p_init == 1.0):
            raise GraspError(
                f"ratios of {adapters} adapters from {p_init}: give 2 or more, and p_init below 1"
            )
        if candidates < 1:
            raise GraspError(f"candidates must be at least 1, got {candidates}")
        for name, value in {"eta": eta, "beta": beta, "tau": tau, "d_max": d_max}.items():
            if not (math.isfinite(value) and value >= 0.0):
                raise GraspError(f"{name} must be a finite number >= 0, got {value}")
        if not (math.isfinite(sigma_min) and sigma_min > 0.0):
            raise GraspError(f"sigma_min must be a finite number > 0, got {sigma_min}")
        if sigma_init is not None and not (math.isfinite(sigma_init) and sigma_init >= 0.0):
            raise GraspError(f"sigma_init must be a finite number >= 0, got {sigma_init}")
        self.adapters = adapters
        self.p_min, self.p_max = p_min, p_max
        self.candidates = candidates
        self.eta, self.beta, self.tau, self.d_max = eta, beta, tau, d_max
        self.sigma_min = sigma_min
        self.p_curr: PruneRatio = self._ratio([p_init] * (adapters or 1))
        self.mu = self.p_curr
        self.sigma = self._numbers(
            [(p_max - p_min) / 6 if sigma_init is None else sigma_init] * (adapters or 1)
        )
        self._rng = np.random.default_rng(seed)

    def ask(self) -> list[Candidate]:
        """Draw C candidates: z_i ~ N(mu, sigma^2), p_i = clamp(z_i, p_min, p_max)."""
        mu, sigma = np.array(each(self.mu)), np.maximum(each(self.sigma), self.sigma_min)
        draws = (mu + sigma * self._rng.standard_normal((self.candidates, self.adapters or 1))).tolist()
        return [Candidate(z=self._numbers(z), p=self._clamp(z)) for z in draws]

    def tell(self, candidates: Sequence[Candidate], rewards: Sequence[float], base_reward: float) -> Update:
        """Update the policy from one round, then commit or keep the ratio.

        Args:
            candidates: As `ask` returned them.
            rewards: Absolute rewards R~(p_i), one per candidate; higher is better.
            base_reward: R~(p_curr), the reward of the committed ratio in the same round.

        Raises:
            GraspError: The counts differ, or a reward is not a finite number.
        """
        if len(rewards) != len(candidates) or not candidates:
            raise GraspError(f"{len(candidates)} candidates but {len(rewards)} rewards")
        if not all(math.isfinite(reward) for reward in (base_reward, *rewards)):
            raise GraspError(f"rewards must be finite numbers, got {base_reward} and {list(rewards)}")
        relative = [reward - base_reward for reward in rewards]  # R_i
        self._step_policy([c.z for c in candidates], relative)
        committed = self._step_ratio([c.p for c in candidates], relative)
        return Update(tuple(relative), committed, self.p_curr, self.mu, self.sigma)

    def near(self, p: PruneRatio) -> list[PruneRatio]:
        """What a commit can reach from `p` where one ratio moves: d_max lower, and higher."""
        own = each(p)
        steps = [(i, step) for i in range(len(own)) for step in (-self.d_max, self.d_max)]
        return [self._clamp([x + step if i == j else x for j, x in enumerate(own)]) for i, step in steps]

    def _step_policy(self, z: Sequence[Numbers], relative: Sequence[float]) -> None:
        """Ascend Eq. (2) by the score-function estimate; Eq. (3). The clamp of p_i is ignored on purpose."""
        mean = sum(relative) / len(z)
        advantages = [r - mean for r in relative]  # A_i
        draws = zip(*map(each, z), strict=True)
        gaussians = zip(draws, each(self.mu), each(self.sigma), each(self.p_curr), strict=True)
        moved = [self._step_gaussian(own, advantages, *now) for own, *now in gaussians]
        self.mu = self._clamp([mu for mu, _ in moved])
        self.sigma = self._numbers([sigma for _, sigma in moved])

    def _step_gaussian(
        self, z: Sequence[float], advantages: Sequence[float], mu: float, sigma: float, p_curr: float
    ) -> tuple[float, float]:
        """One ratio's mean, still unclamped, and its deviation."""
        count, sigma = len(z), max(sigma, self.sigma_min)
        g_mu = sum(a * (x - mu) / sigma**2 for a, x in zip(advantages, z, strict=True)) / count
        g_sigma = (
            sum(a * ((x - mu) ** 2 - sigma**2) / sigma**3 for a, x in zip(advantages, z, strict=True)) / count
        )
        anchor = self.beta * (mu - p_curr)
        return (
            mu + self.eta * g_mu - self.eta * anchor,
            max(self.sigma_min, sigma + self.eta * g_sigma + self.tau),
        )

    def _step_ratio(self, p: Sequence[PruneRatio], relative: Sequence[float]) -> bool:
        """Move p_curr towards the best candidate by at most d_max; Eqs. (4) to (6). False: nothing moved."""
        best = max(range(len(p)), key=lambda i: relative[i])
        if relative[best] < 0.0:
            return False
        pairs = zip(each(self.p_curr), each(p[best]), strict=True)
        self.p_curr = self._clamp([now + max(-self.d_max, min(self.d_max, to - now)) for now, to in pairs])
        return True

    def _clamp(self, values: Sequence[float]) -> PruneRatio:
        """Each within its bounds, and not all at 1 where they are several."""
        found = [max(self.p_min, min(self.p_max, value)) for value in values]
        if self.adapters is not None and min(found) == 1.0:
            found[min(range(len(values)), key=values.__getitem__)] = max(self.p_min, MOST)
        return self._ratio(found)

    def _ratio(self, values: Sequence[float]) -> PruneRatio:
        return values[0] if self.adapters is None else PerAdapter(values)

    def _numbers(self, values: Sequence[float]) -> Numbers:
        return values[0] if self.adapters is None else Several(values)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, the random generator included; JSON can hold it."""
        return {
            "p_curr": self.p_curr,
            "mu": self.mu,
            "sigma": self.sigma,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken.

        Raises:
            ValueError: It is that of a policy over another number of ratios.
        """
        p_curr, mu, sigma = (each(state[name]) for name in ("p_curr", "mu", "sigma"))
        if {len(p_curr), len(mu), len(sigma)} != {self.adapters or 1}:
            raise ValueError(f"it has {len(p_curr)} ratios, and the policy {self.adapters or 1}")
        self.p_curr, self.mu, self.sigma = self._ratio(p_curr), self._ratio(mu), self._numbers(sigma)
        self._rng.bit_generator.state = state["rng"]


class UniformPolicy(RatioPolicy):
    """The control experiment: candidates drawn evenly from [p_min, p_max], nothing learned.

    Everything else is the same, the commit rule included: what the Gaussian policy must beat to have earned
    its place.
    """

    def ask(self) -> list[Candidate]:
        """Draw C candidates, p_i ~ U(p_min, p_max)."""
        size = (self.candidates, self.adapters or 1)
        drawn = map(self._clamp, self._rng.uniform(self.p_min, self.p_max, size).tolist())
        return [Candidate(z=self._numbers(each(p)), p=p) for p in drawn]

    def _step_policy(self, z: Sequence[Numbers], relative: Sequence[float]) -> None:
        """Mean and spread of the uniform distribution do not move."""
        count = self.adapters or 1
        self.mu = self._ratio([(self.p_min + self.p_max) / 2] * count)
        self.sigma = self._numbers([(self.p_max - self.p_min) / math.sqrt(12)] * count)
