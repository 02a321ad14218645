"""The controller in a `transformers.Trainer`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback

from grasp_lora.control.controller import EVERY, GraspController
from grasp_lora.control.fixed_mask import FixedMaskCallback
from grasp_lora.control.merge_prune import MergePruneCallback
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.control.probing import Reward
from grasp_lora.control.rounds import Round
from grasp_lora.control.selection import GraspResult, SelectionRule
from grasp_lora.control.units import ImportanceRefresh, UnitKind
from grasp_lora.errors import GraspError
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.merging.parts import PartsOrFolder, find_parts
from grasp_lora.tasks.example import Example

__all__ = ["GraspCallback"]


class GraspCallback(TrainerCallback):
    """Learns the prune ratio of the adapter that a Trainer trains.

    Works with any `transformers.Trainer` subclass, TRL's `SFTTrainer` included, and with gradient
    accumulation. p_curr, mu, sigma and the rewards go through the Trainer's own logging, so that
    TensorBoard and the other integrations show them.

    Args:
        trainer: The one it is added to.
        micro_dev: The held-out examples whose loss is the reward: `Example`s, or rows with `prompt` and
            `completion` strings as TRL has them. Needed unless `reward` is given.
        reward: Instead of the micro-dev loss, any `reward(model) -> float` to maximise.
        policy: None is `RatioPolicy()`, the paper's defaults.
        every: K, optimizer steps per controller round.
        parts: For a merged adapter, its folder or what `read_parts` gives, so that entries compete only
            within the adapter they came from. None: each LoRA factor is one prune unit. An adapter that was
            not trained yet is pruned from the first round on.
        unit, importance_refresh: See `Pruning`.
        select: See `select_ratio`.
        reset_moments: Whether a commit clears the optimizer's moments of entries that it prunes or revives.
        folder: Where `rounds.jsonl` and `timings.jsonl` are written; None writes nothing.
        max_length, max_new_tokens, token_budget: Limits of the micro-dev batches; see `TargetLoss`.

    Raises:
        GraspError: Neither micro-dev nor reward, or both; an unusable row; parts that are not there. And
            as training begins: another callback that prunes, or no trainable LoRA adapter.

    Example:
        >>> grasp = GraspCallback(trainer, micro_dev)  # doctest: +SKIP
        >>> trainer.add_callback(grasp)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> grasp.result.best_ratio  # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Trainer,
        micro_dev: Sequence[Example | Mapping[str, Any]] | None = None,
        *,
        reward: Reward | None = None,
        policy: RatioPolicy | None = None,
        every: int = EVERY,
        parts: PartsOrFolder = None,
        unit: UnitKind = "adapter",
        importance_refresh: ImportanceRefresh = "round",
        select: SelectionRule = "best",
        reset_moments: bool = True,
        folder: str | Path | None = None,
        max_length: int = Limits.max_length,
        max_new_tokens: int | None = Limits.max_new_tokens,
        token_budget: int = Limits.token_budget,
    ) -> None:
        if (micro_dev is None) == (reward is None):
            raise GraspError("give GraspCallback either micro_dev examples or a reward function")
        self.trainer = trainer
        limits = Limits(max_length, max_new_tokens, token_budget)
        self._reward = reward or self._loss_reward(micro_dev or [], limits)
        self._options: dict[str, Any] = {
            "policy": policy,
            "every": every,
            "parts": find_parts(parts),
            "unit": unit,
            "importance_refresh": importance_refresh,
            "select": select,
            "reset_moments": reset_moments,
            "folder": None if folder is None else Path(folder),
        }
        self.controller: GraspController | None = None

    @property
    def result(self) -> GraspResult:
        """p* and all rounds; there once training has made a round."""
        if self.controller is None:
            raise GraspError("no training has begun: call trainer.train() first")
        return self.controller.result

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module, optimizer: Optimizer, **_: Any
    ) -> None:
        others = [
            c
            for c in self.trainer.callback_handler.callbacks
            if isinstance(c, GraspCallback | FixedMaskCallback | MergePruneCallback) and c is not self
        ]
        if others:
            raise GraspError(
                f"the Trainer has a {type(others[0]).__name__} beside its GraspCallback, and both would "
                "prune the adapter: remove one. A final run at the learned ratio is a training of its own"
            )
        self.controller = GraspController(
            model, optimizer, self._reward, on_round=self._log_round, **self._options
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.controller is not None
        due = control.should_log
        self.controller.after_optimizer_step()
        control.should_log = due  # logging a round took it for the log of the loss that is due now

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.controller is not None
        self.controller.close()

    def _log_round(self, made: Round, seconds: float) -> None:
        self.trainer.log({**made.log_values(), "grasp/round_seconds": seconds})

    def _loss_reward(self, rows: Sequence[Example | Mapping[str, Any]], limits: Limits) -> Reward:
        if self.trainer.processing_class is None:
            raise GraspError(
                "the Trainer has no tokenizer to encode the micro-dev rows with: give it one as "
                "processing_class, or give GraspCallback a reward function"
            )
        loss = TargetLoss(
            [_example(i, row) for i, row in enumerate(rows)],
            self.trainer.processing_class,
            self.trainer.model,
            **asdict(limits),
        )
        return lambda model: -loss(model)


def _example(index: int, row: Example | Mapping[str, Any]) -> Example:
    if isinstance(row, Example):
        return row
    prompt, completion = row.get("prompt"), row.get("completion")
    if not isinstance(prompt, str) or not isinstance(completion, str):
        found = ", ".join(f"{key} ({type(value).__name__})" for key, value in row.items()) or "nothing"
        raise GraspError(f"micro-dev row {index} needs `prompt` and `completion` strings, has {found}")
    return Example(str(index), prompt, completion)
