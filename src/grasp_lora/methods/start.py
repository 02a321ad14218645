"""What all methods of an experiment start from: its rows, its two adapters and their sum."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grasp_lora.config.tree import Config, Side
from grasp_lora.control.settings import Control
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.training import Training
from grasp_lora.stages.learn import LEARN
from grasp_lora.stages.merge import MERGE
from grasp_lora.stages.train import TRAIN
from grasp_lora.tasks.task import Task
from grasp_lora.workspace.resources import Model, Rows
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.training import EveryStep, Fixed

__all__ = ["Start"]


@dataclass(frozen=True)
class Start:
    """An experiment before any method: methods take from here what they give their stages.

    Attributes:
        config: All settings.
        task: The one that the config names.
    """

    config: Config
    task: Task

    @property
    def model(self) -> Model:
        """The backbone."""
        config = self.config
        return Model(config.backbone, config.revision, config.dtype, config.device)

    @property
    def limits(self) -> Limits:
        """The task's own limit of an answer where the config has none: the target's, for both languages."""
        config = self.config
        new = config.max_new_tokens or self.task.new_tokens(config.target.language)
        return Limits(config.max_length, new, config.token_budget)

    def rows(self, side: Side, split: str) -> Rows:
        """A split of the source's or the target's language, as much of it as the config takes."""
        limits = {
            "train": side.train_examples,
            "dev": side.dev_examples,
            "test": self.config.evaluation.test_examples,
        }
        return Rows(self.task, side.language, split, limits[split])

    def micro_dev(self, wanted: int) -> Rows:
        """m held-out rows of the target for the controller; never made up from dev."""
        return Rows(self.task, self.config.target.language, "micro_dev", wanted, at_least=wanted)

    @property
    def source(self) -> Stage | Path:
        """The source language's adapter: trained, or given."""
        return self._side(self.config.source)

    @property
    def target(self) -> Stage | Path:
        """The target language's adapter: trained, or given."""
        return self._side(self.config.target)

    @property
    def both(self) -> dict[str, Stage | Path]:
        """The two adapters by language."""
        config = self.config
        return {config.source.language: self.source, config.target.language: self.target}

    @property
    def merged(self) -> Stage:
        """Their sum (Eq. 1), or what else `merge` says."""
        given = {"adapters": self.both, "method": self.config.merge}
        return Stage("merged", MERGE, given, counted=False)

    def train(
        self,
        name: str,
        seed: int,
        *,
        start: Any,
        mask: Fixed | EveryStep | None = None,
        side: Side | None = None,
        training: Training | None = None,
        counted: bool = True,
    ) -> Stage:
        """The one training run: from `start`, under `mask`, on the side's rows, its best epoch on dev kept.

        Args:
            start: An adapter, or the shape of a new one.
            side: Whose rows; None: the target's.
            training: None: the final run's.
        """
        side = side or self.config.target
        given = {
            "model": self.model,
            "start": start,
            "train": self.rows(side, "train"),
            "dev": self.rows(side, "dev"),
            "mask": mask,
            "training": training or self.config.final.training,
            "limits": self.limits,
            "seed": seed,
        }
        return Stage(name, TRAIN, given, counted)

    def learn(self, name: str, policy: str, control: Control) -> Stage:
        """A learning run from the merge; with the config's seed, since a ratio is found once."""
        return Stage(name, LEARN, self.learning(policy, control))

    def learning(self, policy: str, control: Control) -> dict[str, Any]:
        """What a learning run is given."""
        return {
            "model": self.model,
            "start": self.merged,
            "train": self.rows(self.config.target, "train"),
            "micro_dev": self.micro_dev(control.micro_dev),
            "policy": policy,
            "control": control,
            "training": self.config.learn.training,
            "limits": self.limits,
            "seed": self.config.seed,
        }

    def _side(self, side: Side) -> Stage | Path:
        if side.adapter is not None:
            return side.adapter
        return self.train(
            f"adapters/{side.language}",
            self.config.seed if side.seed is None else side.seed,
            start=self.config.lora,
            side=side,
            training=side.training,
            counted=False,
        )
