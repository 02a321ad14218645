"""What all methods of an experiment start from: its rows, its adapters and their sum."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from grasp_lora.config.parts import Side, Source
from grasp_lora.config.tree import Config
from grasp_lora.control.settings import Control
from grasp_lora.errors import GraspError
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.training import Training
from grasp_lora.methods.given import given_adapter
from grasp_lora.methods.own_ratios import own_ratios
from grasp_lora.ratios import PruneRatio
from grasp_lora.stages.choose import CHOOSE
from grasp_lora.stages.learn import LEARN
from grasp_lora.stages.merge import MERGE
from grasp_lora.stages.train import TRAIN
from grasp_lora.tasks.task import Task
from grasp_lora.workspace.inputs import Fold, Model, Rows
from grasp_lora.workspace.records import DRAWS_FOLDER
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.training import EveryStep, Fixed

__all__ = ["Start"]


@dataclass(frozen=True)
class Start:
    """An experiment before any method: methods take from here what they give their stages.

    Attributes:
        config: All settings.
        task: The one that the config names, with the target's further test sets as the splits `tests/NAME`.
        tasks: Those of sources that have one of their own, by the sources' labels.
        adapters_seed: What the adapters are trained with; None: the config's seed.
        draw: Which training rows of the target; 0: the first ones.
        sample: Which of its labelled rows are trained on: "train" and no other, "all", or those of a fold,
            which scores by what it holds out.
    """

    config: Config
    task: Task
    tasks: Mapping[str, Task] = field(default_factory=dict)
    adapters_seed: int | None = None
    draw: int = 0
    sample: Literal["train", "all"] | Fold = "train"

    def repeated(self, seed: int) -> "Start":
        """The experiment that a method's run with this seed begins from: other adapters where they are
        trained anew with each seed.
        """
        return replace(self, adapters_seed=seed if self.repeats_adapters else None)

    @property
    def repeats_adapters(self) -> bool:
        """Whether adapters are trained anew with each seed: the config says so, and has any to train."""
        sides = (*self.config.sources, self.config.target)
        return self.config.repeat == "adapters" and any(side.adapter is None for side in sides)

    @property
    def first(self) -> "Start":
        """With the config's own seed: a ratio is found here, once."""
        return replace(self, adapters_seed=None)

    @property
    def model(self) -> Model:
        """The backbone."""
        return Model(**self.config.loading)

    @property
    def limits(self) -> Limits:
        """Of the target's examples."""
        return self.limits_of(self.config.target)

    def rows(self, side: Side, split: str) -> Rows:
        """A split of the source's or the target's language, as much of it as the config takes."""
        limits = {"train": side.train_examples, "dev": side.dev_examples}
        limit = limits.get(split, self.config.evaluation.test_examples)
        rows = Rows(self._task(side), side.language, split, limit)
        if side is not self.config.target or split not in limits:
            return rows
        if self.sample == "train":
            return replace(rows, draw=self.draw) if split == "train" else rows
        fold = self.sample if isinstance(self.sample, Fold) else None
        if split == "dev" and fold is not None:
            fold = replace(fold, held_out=True)
        own = replace(rows, split="train", limit=side.train_examples, draw=self.draw)
        return replace(own, also=self.other_labelled, fold=fold)

    @property
    def other_labelled(self) -> tuple[Rows, ...]:
        """The target's labelled rows that are not trained on but to choose by: dev and micro-dev."""
        target = self.config.target
        dev = Rows(self.task, target.language, "dev", target.dev_examples)
        if "micro_dev" not in dev.splits:
            return (dev,)
        looked_at = max(one.micro_dev for one in (self.config.control, *self.config.variants.values()))
        return dev, Rows(self.task, target.language, "micro_dev", looked_at)

    def held_out_of(self, side: Source) -> Rows | None:
        """A source's dev rows, where its task has any."""
        rows = self.rows(side, "dev")
        return rows if "dev" in rows.splits else None

    @property
    def drawn(self) -> str:
        """Where what depends on the draw is below the run's folder."""
        return f"{DRAWS_FOLDER}/{self.draw}"

    @property
    def place(self) -> str:
        """Where stages are below the run's folder that train on a sample."""
        if isinstance(self.sample, Fold):
            return f"folds/{self.sample.repeat}-{self.sample.number}/"
        return "folds/all/" if self.sample == "all" else ""

    def micro_dev(self, wanted: int) -> Rows:
        """m held-out rows of the target for the controller; never made up from dev."""
        return Rows(self.task, self.config.target.language, "micro_dev", wanted, at_least=wanted)

    @cached_property
    def sources(self) -> dict[str, Stage | Path]:
        """The sources' adapters by label: trained, or given."""
        return {side.label: self._adapter(side) for side in self.config.sources}

    @property
    def source(self) -> Stage | Path:
        """The one source's adapter.

        Raises:
            GraspError: There are several.
        """
        if len(self.sources) > 1:
            raise GraspError(f"it takes one source, and there are {', '.join(self.sources)}")
        return next(iter(self.sources.values()))

    @cached_property
    def target(self) -> Stage | Path:
        """The target language's adapter: trained, or given.

        Raises:
            GraspError: It has none.
        """
        if self.config.target.adapter == "none":
            raise GraspError("target.adapter is none, so that there is no target adapter")
        return self._adapter(self.config.target)

    @property
    def adapters(self) -> dict[str, Stage | Path]:
        """All that are merged, by label."""
        target = self.config.target
        return self.sources | ({} if target.adapter == "none" else {target.label: self.target})

    @cached_property
    def merged(self) -> Stage:
        """Their sum (Eq. 1), or what else `merge` says."""
        given = {"adapters": self.adapters, "method": self.config.merge}
        return Stage(f"{self.place}merged{self.suffix}", MERGE, given, counted=bool(self.place))

    @property
    def suffix(self) -> str:
        """Tells the folders of adapters that are trained with another seed than the config's."""
        seed = self.adapters_seed
        return "" if seed in (None, self.config.seed) else f"-seed{seed}"

    def final_mask(self, ratio: PruneRatio | Stage, unit: Any = None) -> Fixed | EveryStep:
        """How the final run at a ratio prunes."""
        config = self.config
        if config.final.pruning == "every_step":
            return EveryStep(ratio, config.merge_prune)
        return Fixed(ratio, unit or config.control.unit)

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
        beside: Side | None = None,
        dev: bool = True,
        like: Stage | None = None,
    ) -> Stage:
        """The one training run: from `start`, under `mask`, on the side's rows, its best epoch on dev kept;
        the best of several where `tune` searches its rate.

        Args:
            start: An adapter, or the shape of a new one.
            side: Whose rows; None: the target's.
            training: None: the final run's.
            beside: Whose rows to train on in the same steps.
            dev: Whether it may look at dev; an average needs none, nor does a fixed number of epochs.
            like: What chose the number of epochs.
        """
        given = self.fine_tuning(
            seed, start=start, mask=mask, side=side, training=training, beside=beside, dev=dev, like=like
        )
        rates = self.config.tune.learning_rate
        searched = rates and dev and side in (None, self.config.target) and self.sample == "train"
        if not searched or given["training"].average:
            return Stage(name, TRAIN, given, counted)
        points = {
            rate: Stage(
                f"tune/{name}-lr{rate:g}",
                TRAIN,
                {**given, "training": given["training"].model_copy(update={"learning_rate": rate})},
                counted,
            )
            for rate in rates
        }
        return Stage(name, CHOOSE, {"points": points, "of": "learning_rate"}, counted)

    def fine_tuning(
        self,
        seed: int,
        *,
        start: Any,
        mask: Fixed | EveryStep | None = None,
        side: Side | None = None,
        training: Training | None = None,
        beside: Side | None = None,
        dev: bool = True,
        like: Stage | None = None,
    ) -> dict[str, Any]:
        """What a training run is given; see `train`."""
        side = side or self.config.target
        return {
            "model": self.model,
            "start": start,
            "train": self.rows(side, "train"),
            "dev": self.rows(side, "dev") if dev else None,
            "mask": mask,
            **({"beside": self.rows(beside, "train")} if beside else {}),
            **({"like": like} if like else {}),
            "training": training or self.config.final.training,
            "limits": self.limits_of(side),
            "seed": seed,
        }

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
            "dev": self.rows(self.config.target, "dev"),
            "policy": policy,
            "control": control,
            "training": self.config.learn.training,
            "limits": self.limits,
            "seed": self.config.seed,
            **own_ratios(self.config),
        }

    def _adapter(self, side: Side) -> Stage | Path:
        config = self.config
        if side.adapter is not None:
            return given_adapter(f"{self.key(side)}.adapter", side.adapter)
        shift = 0 if self.adapters_seed is None else self.adapters_seed - config.seed
        place = self.place if side is config.target else ""
        return self.train(
            f"{place}adapters/{side.label}{self.suffix}",
            ((config.seed if side.seed is None else side.seed) + shift) % 2**32,
            start=config.lora,
            side=side,
            training=side.training,
            counted=bool(place),
            dev=not place,
        )

    def key(self, side: Side) -> str:
        """Where the config has the side."""
        if side is self.config.target:
            return "target"
        return "source" if len(self.config.sources) == 1 else f"source {side.label}"

    def _task(self, side: Side) -> Task:
        return self.tasks.get(side.label, self.task) if isinstance(side, Source) else self.task

    def limits_of(self, side: Side) -> Limits:
        """A language's own limit of an answer where the config has none."""
        config = self.config
        new = config.max_new_tokens or self._task(side).new_tokens(side.language)
        return Limits(config.max_length, new, config.token_budget, config.prompt_format)
