"""Does the micro-dev reward rank ratios as the dev loss after fine-tuning does?

The question under the whole method: a controller can only learn what its reward shows.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr
from transformers import TrainerCallback

from grasp_lora.control.callback import GraspCallback
from grasp_lora.lm.checkpoints import CarriesState
from grasp_lora.ratios import PruneRatio, in_order
from grasp_lora.workspace.passes import passes_of_learning
from grasp_lora.workspace.records import DevLosses, RankCheck
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work
from grasp_lora.workspace.training import enough_steps, learn

__all__ = ["RANK_CHECK"]


def rank_check(
    resources: Resources, folder: Path, *, points: Mapping[PruneRatio, Path], **given: Any
) -> None:
    """Repeat the learning run, and at its start and each round also see the reward of the grid's ratios.

    Leaves the learning run's files and `RankCheck`: Spearman's rho between reward and minus dev loss.

    Args:
        points: Ratio -> the folder of the training at it.
        given: Those of `workspace.training.learn`.
    """
    final = {p: DevLosses.read(made).best for p, made in in_order(points)}
    watched: list[_GridRewards] = []

    def watcher(grasp: GraspCallback) -> TrainerCallback:
        watched.append(_GridRewards(grasp, list(final)))
        return watched[-1]

    learn(resources, folder, watcher=watcher, **given)
    rounds = [
        {"step": step, "rho": _rho(rewards, final), "rewards": {str(p): r for p, r in rewards.items()}}
        for step, rewards in watched[-1].rewards.items()
    ]
    RankCheck({str(p): loss for p, loss in final.items()}, rounds).write(folder)


def _passes(*, points: Mapping[PruneRatio, Path], **given: Any) -> int:
    rounds: int = given["training"].steps(len(given["train"])) // given["control"].every
    probes: int = (rounds + 1) * len(points) * len(given["micro_dev"])
    return passes_of_learning(**given) + probes


class _GridRewards(CarriesState):
    """The reward of fixed ratios whenever the controller has made a round; it changes nothing."""

    def __init__(self, grasp: GraspCallback, ratios: list[PruneRatio]) -> None:
        self.grasp, self.ratios = grasp, ratios
        self.rewards: dict[int, dict[PruneRatio, float]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (carried := self.carried(args, state)) is None:
            self._probe(0)
        else:
            self.rewards = {
                step: dict(zip(self.ratios, seen, strict=True)) for step, seen in carried["rewards"]
            }

    def state_dict(self) -> dict[str, Any]:
        return {"rewards": [[step, list(seen.values())] for step, seen in self.rewards.items()]}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        controller = self.grasp.controller
        if controller is not None and controller.step % controller.every == 0:
            self._probe(controller.step)

    def _probe(self, step: int) -> None:
        controller = self.grasp.controller
        assert controller is not None, "the controller's callback comes first"
        self.rewards[step] = {
            p: seen.mean for p, seen in zip(self.ratios, controller.prober.at(self.ratios), strict=True)
        }


def _rho(rewards: Mapping[PruneRatio, float], losses: Mapping[PruneRatio, float]) -> float | None:
    if len(set(rewards.values())) < 2 or len(set(losses.values())) < 2:
        return None
    rho = float(spearmanr([rewards[p] for p in losses], [-loss for loss in losses.values()]).statistic)
    return rho if math.isfinite(rho) else None


RANK_CHECK = Work(rank_check, ready=enough_steps, passes=_passes, resumes=True)
