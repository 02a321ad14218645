"""The controller's policy: a Gaussian over one number, the global prune ratio p.

Ask it for candidate ratios, tell it their rewards. Symbols and equation numbers are those of
GRASP LoRA, Sec. 3.3. Nothing here knows about models: numbers in, numbers out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grasp_lora.errors import GraspError

__all__ = ["Candidate", "RatioPolicy", "UniformPolicy", "Update"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One draw: `z` from the Gaussian, and `p`, the same value clamped to the allowed range."""

    z: float
    p: float

    @property
    def clamped(self) -> bool:
        return self.z != self.p


@dataclass(frozen=True, slots=True)
class Update:
    """What one `tell` did. All values but `relative_rewards` are after the update."""

    relative_rewards: tuple[float, ...]  # R_i = R~(p_i) - R~(p_curr), one per candidate
    committed: bool
    p_curr: float
    mu: float
    sigma: float


class RatioPolicy:
    """GRPO policy over the prune ratio, GRASP LoRA Eqs. (2) to (6).

    Args:
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
        if candidates < 1:
            raise GraspError(f"candidates must be at least 1, got {candidates}")
        for name, value in {"eta": eta, "beta": beta, "tau": tau, "d_max": d_max}.items():
            if not (math.isfinite(value) and value >= 0.0):
                raise GraspError(f"{name} must be a finite number >= 0, got {value}")
        if not (math.isfinite(sigma_min) and sigma_min > 0.0):
            raise GraspError(f"sigma_min must be a finite number > 0, got {sigma_min}")
        if sigma_init is not None and not (math.isfinite(sigma_init) and sigma_init >= 0.0):
            raise GraspError(f"sigma_init must be a finite number >= 0, got {sigma_init}")
        self.p_min, self.p_max = p_min, p_max
        self.candidates = candidates
        self.eta, self.beta, self.tau, self.d_max = eta, beta, tau, d_max
        self.sigma_min = sigma_min
        self.p_curr = p_init
        self.mu = p_init
        self.sigma = (p_max - p_min) / 6 if sigma_init is None else sigma_init
        self._rng = np.random.default_rng(seed)

    def ask(self) -> list[Candidate]:
        """Draw C candidates: z_i ~ N(mu, sigma^2), p_i = clamp(z_i, p_min, p_max)."""
        sigma = max(self.sigma, self.sigma_min)
        draws = (self.mu + sigma * self._rng.standard_normal(self.candidates)).tolist()
        return [Candidate(z=z, p=self._clamp(z)) for z in draws]

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

    def _step_policy(self, z: Sequence[float], relative: Sequence[float]) -> None:
        """Ascend Eq. (2) by the score-function estimate; Eq. (3). The clamp of p_i is ignored on purpose."""
        count, sigma = len(z), max(self.sigma, self.sigma_min)
        mean = sum(relative) / count
        advantages = [r - mean for r in relative]  # A_i
        g_mu = sum(a * (x - self.mu) / sigma**2 for a, x in zip(advantages, z, strict=True)) / count
        g_sigma = (
            sum(a * ((x - self.mu) ** 2 - sigma**2) / sigma**3 for a, x in zip(advantages, z, strict=True))
            / count
        )
        anchor = self.beta * (self.mu - self.p_curr)
        self.mu = self._clamp(self.mu + self.eta * g_mu - self.eta * anchor)
        self.sigma = max(self.sigma_min, sigma + self.eta * g_sigma + self.tau)

    def _step_ratio(self, p: Sequence[float], relative: Sequence[float]) -> bool:
        """Move p_curr towards the best candidate by at most d_max; Eqs. (4) to (6). False: nothing moved."""
        best = max(range(len(p)), key=lambda i: relative[i])
        if relative[best] < 0.0:
            return False
        delta = max(-self.d_max, min(self.d_max, p[best] - self.p_curr))
        self.p_curr = self._clamp(self.p_curr + delta)
        return True

    def _clamp(self, value: float) -> float:
        return max(self.p_min, min(self.p_max, value))

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, the random generator included; JSON can hold it."""
        return {
            "p_curr": self.p_curr,
            "mu": self.mu,
            "sigma": self.sigma,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""
        self.p_curr, self.mu, self.sigma = state["p_curr"], state["mu"], state["sigma"]
        self._rng.bit_generator.state = state["rng"]


class UniformPolicy(RatioPolicy):
    """The control experiment: candidates drawn evenly from [p_min, p_max], nothing learned.

    Everything else is the same, the commit rule included: what the Gaussian policy must beat to have earned
    its place.
    """

    def ask(self) -> list[Candidate]:
        """Draw C candidates, p_i ~ U(p_min, p_max)."""
        draws = self._rng.uniform(self.p_min, self.p_max, self.candidates).tolist()
        return [Candidate(z=p, p=p) for p in draws]

    def _step_policy(self, z: Sequence[float], relative: Sequence[float]) -> None:
        """Mean and spread of the uniform distribution do not move."""
        self.mu = (self.p_min + self.p_max) / 2
        self.sigma = (self.p_max - self.p_min) / math.sqrt(12)
