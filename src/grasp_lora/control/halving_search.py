"""Successive halving over fixed masks, with a function that makes a `transformers.Trainer`."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import Trainer

from grasp_lora.control.evaluated import evaluation_loss
from grasp_lora.control.examples import Row, as_examples, loss_of
from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.control.halving import Halving, HalvingResult, KeepRule
from grasp_lora.control.noise import MARGIN
from grasp_lora.control.units import UnitKind
from grasp_lora.errors import GraspError
from grasp_lora.lm.chat import PromptFormat
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.logs import CHECKPOINT
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.lm.pausing import PauseAt, Paused
from grasp_lora.merging.parts import PartsOrFolder
from grasp_lora.ranks import world
from grasp_lora.ratios import PruneRatio, per_adapter, shown_ratio
from grasp_lora.tasks.example import groups_of

__all__ = ["HalvingSearch"]


class HalvingSearch:
    """Finds a prune ratio and leaves the adapter that was trained at it: successive halving, paired.

    Each candidate is a training run of its own, from the same adapter, with the same rows in the same order,
    that pauses at the rungs. What is kept of it is its Trainer checkpoint: adapter, optimizer, mask; there is
    one backbone if `make_trainer` makes its Trainers around one model.

    Args:
        make_trainer: Makes a Trainer that was not used yet; its model has the trained or merged adapter to
            begin with, or what an earlier candidate left of it: the first Trainer's adapter is put back.
        candidates: Prune ratios; numbers, or sequences with one for each of the parts.
        examples: Held-out rows whose losses judge, as for `GraspCallback`; None: the Trainer's eval_dataset.
        rungs: Optimizer steps of the comparisons; before the last step of training.
        rows: How many of the examples, the first ones, judge at each rung; None: all at each.
        parts, unit: As for `GraspCallback`.
        factor, keep, budget, margin: See `Halving`.
        folder: Where checkpoints and the Trainers' other output go; None: a temporary one.
        max_length, max_new_tokens, token_budget, prompt_format: As for `GraspCallback`.

    Raises:
        GraspError: An unusable candidate, rung or row; and as it runs, a Trainer that keeps no optimizer.

    Attributes:
        trainer: The one that trained the survivor to its end, once `run` has returned.

    Examples:
        >>> search = HalvingSearch(make_trainer, [0.0, 0.3, 0.6], examples, rungs=(6, 12))  # doctest: +SKIP
        >>> search.run().best_ratio  # doctest: +SKIP
        >>> search.trainer.save_model("adapter")  # doctest: +SKIP
    """

    def __init__(
        self,
        make_trainer: Callable[[], Trainer],
        candidates: Sequence[float | Sequence[float]],
        examples: Sequence[Row] | None = None,
        *,
        rungs: Sequence[int],
        rows: Sequence[int] | None = None,
        parts: PartsOrFolder = None,
        unit: UnitKind = "adapter",
        factor: int = 3,
        keep: KeepRule = "rank",
        budget: int | None = None,
        margin: float = MARGIN,
        folder: str | Path | None = None,
        max_length: int = Limits.max_length,
        max_new_tokens: int | None = Limits.max_new_tokens,
        token_budget: int = Limits.token_budget,
        prompt_format: PromptFormat = Limits.prompt_format,
    ) -> None:
        self._examples = None if examples is None else as_examples("example", examples)
        if self._examples is not None and not self._examples:
            raise GraspError("examples has no rows")
        self._rows: Sequence[int | None] = (None,) * len(rungs) if rows is None else tuple(rows)
        many = None if self._examples is None else len(self._examples)
        possible = range(1, sys.maxsize if many is None else many + 1)
        if rows is not None and (len(rows) != len(rungs) or not all(n in possible for n in rows)):
            upto = "1 on" if many is None else f"1 to {many}"
            raise GraspError(f"rows needs a number from {upto} for each of {len(rungs)} rungs")
        ratios = [per_adapter(p) if isinstance(p, Sequence) else float(p) for p in candidates]
        self._masks = {p: FixedMaskCallback(p, parts=parts, unit=unit) for p in ratios}
        groups = groups_of(self._examples or ())
        self._new = partial(
            Halving, ratios, rungs, factor=factor, keep=keep, budget=budget, margin=margin, groups=groups
        )
        self._halving = self._new()
        self._make, self._folder = make_trainer, None if folder is None else Path(folder)
        self._limits = Limits(max_length, max_new_tokens, token_budget, prompt_format)
        self._start: dict[str, Tensor] = {}
        self._reached: dict[PruneRatio, int] = {}
        self._began = False
        self.trainer: Trainer | None = None

    def run(self) -> HalvingResult:
        """Train, compare, and train the survivor on to its end.

        Raises:
            GraspError: A loss is not finite, training ends before a rung, or checkpoints have no optimizer.
        """
        if self.trainer is not None:
            return self._halving.result
        if self._folder is not None:
            if not self._began and any((self._folder / shown_ratio(p)).exists() for p in self._masks):
                raise GraspError(f"{self._folder} holds another search's checkpoints: give a new folder")
            self._began = True
            return self._run(self._folder)
        if world() > 1:
            raise GraspError("several processes go on from the same checkpoints: give HalvingSearch a folder")
        self._halving, self._reached = self._new(), {}  # what one that was ended left is gone
        with tempfile.TemporaryDirectory() as folder:
            return self._run(Path(folder))

    def _run(self, folder: Path) -> HalvingResult:
        halving = self._halving
        while (step := halving.next_step) is not None:
            halving.tell({p: self._train(folder, p, step) for p in halving.alive})
        self._train(folder, halving.result.best_ratio, None)
        return halving.result

    def _train(self, folder: Path, p: PruneRatio, step: int | None) -> list[float]:
        """Train a candidate on to the step, or to its end; the losses of the rows that judge there."""
        trainer, mask = self._make(), self._masks[p]
        if trainer.state.global_step:
            raise GraspError("make_trainer made a Trainer that was used: it makes a new one each time")
        if trainer.args.save_only_model:
            raise GraspError(
                "halving goes on from checkpoints, which need the optimizer: save_only_model=False"
            )
        before, trainer.args.output_dir = trainer.args.output_dir, str(folder / shown_ratio(p))
        self._put_back(trainer)
        pause = PauseAt(self._loss(trainer).per_example, step)
        reached = self._reached.get(p)
        checkpoint = None if reached is None else f"{trainer.args.output_dir}/{CHECKPOINT}{reached}"
        for callback in (mask, pause):
            trainer.add_callback(callback)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except Paused as paused:
            assert step is not None
            self._reached[p] = step
            return paused.seen
        finally:
            trainer.args.output_dir = before
            if mask.masked is not None:
                mask.masked.close()
            if (noise := getattr(trainer, "neftune_hook_handle", None)) is not None:
                noise.remove()  # which a training that ends as usual does
        if step is not None:
            raise GraspError(
                f"training ended after {trainer.state.global_step} steps, before the rung at {step}"
            )
        self.trainer = trainer
        return []

    def _loss(self, trainer: Trainer) -> TargetLoss:
        rows = self._rows[min(len(self._halving.rungs), len(self._rows) - 1)]
        if self._examples is None:
            return evaluation_loss(trainer, "give HalvingSearch examples", rows)
        return loss_of(trainer, "example", self._examples[:rows], self._limits)

    def _put_back(self, trainer: Trainer) -> None:
        """Every candidate begins with what the first one began with."""
        parameters = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
        if not self._start:
            self._start = {name: one.detach().clone() for name, one in parameters.items()}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self._start[name])
