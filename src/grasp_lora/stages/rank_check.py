"""Does the micro-dev reward rank ratios as the dev loss after fine-tuning does?

The question under the whole method: a controller can only learn what its reward shows.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grasp_lora.control.callback import GraspCallback
from grasp_lora.lm.loss import evaluation_mode
from grasp_lora.stages.inputs import Inputs
from grasp_lora.stages.learning import LearningRun
from grasp_lora.stages.run_directory import RunDirectory, write_json
from grasp_lora.stages.tuning import best_dev_loss

__all__ = ["rank_check"]


def rank_check(inputs: Inputs, run: RunDirectory, grid: Mapping[float, str]) -> Path:
    """Repeat the learning run, and at its start and each round also see the reward of the grid's ratios.

    Leaves `rank_check.json`: the grid's dev losses after fine-tuning, and by optimizer step the rewards and
    Spearman's rho between reward and minus dev loss (null where one of them is the same everywhere).

    Args:
        grid: Ratio -> the `finetune` stage that trained it to the end.
    """
    learning = LearningRun(inputs, run, "grasp")
    final = {p: best_dev_loss(run.path(stage)) for p, stage in sorted(grid.items())}

    def work(folder: Path) -> None:
        watched: list[_GridRewards] = []

        def watcher(grasp: GraspCallback) -> TrainerCallback:
            watched.append(_GridRewards(grasp, list(final)))
            return watched[0]

        learning.train(folder, "rank check", [watcher])
        rounds = [
            {"step": step, "rho": _rho(rewards, final), "rewards": {str(p): r for p, r in rewards.items()}}
            for step, rewards in watched[0].rewards.items()
        ]
        shown = {str(p): loss for p, loss in final.items()}
        write_json(folder / "rank_check.json", {"dev_loss": shown, "rounds": rounds})

    dependencies = {
        **learning.dependencies(),
        **{f"grid.p{p}": run.output(stage, "dev_losses.json") for p, stage in grid.items()},
    }
    return run.stage(inputs.learn_stage("rank_check"), dependencies, work)


class _GridRewards(TrainerCallback):
    """The reward of fixed ratios whenever the controller has made a round; it changes nothing."""

    def __init__(self, grasp: GraspCallback, ratios: list[float]) -> None:
        self.grasp, self.ratios = grasp, ratios
        self.rewards: dict[int, dict[float, float]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._probe(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        controller = self.grasp.controller
        if controller is not None and controller.step % controller.every == 0:
            self._probe(controller.step)

    def _probe(self, step: int) -> None:
        controller = self.grasp.controller
        assert controller is not None, "the controller's callback comes first"
        with evaluation_mode(controller.model), controller.masked.probing(self.ratios) as apply:
            found = {}
            for i, p in enumerate(self.ratios):
                apply(i)
                found[p] = float(controller.reward(controller.model))
        self.rewards[step] = found


def _rho(rewards: Mapping[float, float], losses: Mapping[float, float]) -> float | None:
    if len(set(rewards.values())) < 2 or len(set(losses.values())) < 2:
        return None
    rho = float(spearmanr([rewards[p] for p in losses], [-loss for loss in losses.values()]).statistic)
    return rho if math.isfinite(rho) else None
