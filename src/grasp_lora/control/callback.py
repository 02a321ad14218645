"""The controller in a `transformers.Trainer`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import Trainer

from grasp_lora.control.controller import EVERY, GraspController
from grasp_lora.control.evaluated import evaluation_loss, rows_in
from grasp_lora.control.examples import Row, as_examples, check_alone, check_rows, loss_of
from grasp_lora.control.noise import MARGIN, Look
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.control.probing import Reward
from grasp_lora.control.rounds import Round
from grasp_lora.control.selection import GraspResult, SelectionRule
from grasp_lora.control.units import ImportanceRefresh, UnitKind
from grasp_lora.control.warnings import warnings_of
from grasp_lora.errors import GraspError
from grasp_lora.lm.chat import PromptFormat
from grasp_lora.lm.checkpoints import CarriesState
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.merging.parts import PartsOrFolder, find_parts
from grasp_lora.tasks.example import Example, examples_digest, groups_of

__all__ = ["GraspCallback"]

logger = logging.getLogger(__name__)


class GraspCallback(CarriesState):
    """Learns the prune ratio of the adapter that a Trainer trains.

    Works with any `transformers.Trainer` subclass, TRL's `SFTTrainer` included, and with gradient
    accumulation. p_curr, mu, sigma and the rewards go through the Trainer's own logging, so that
    TensorBoard and the other integrations show them.

    Its state goes into the Trainer's checkpoints, and `trainer.train(resume_from_checkpoint=True)` goes on
    with the same rounds; see `CarriesState` for a checkpoint from elsewhere.

    Args:
        trainer: The one it is added to.
        micro_dev: The held-out examples whose loss is the reward: `Example`s, or rows as TRL has them, with
            `prompt` and `completion` (strings or messages), `messages`, whose last turn is the target, or a
            `text` that is all target; perhaps with a `group`, such as a passage: rows of one are one cluster
            in standard errors. None, and no `reward`: the Trainer's eval_dataset, all of it in each probe.
        reward: Instead of the micro-dev loss, any `reward(model) -> float` to maximise.
        policy: None is `RatioPolicy()`, the paper's defaults. `RatioPolicy(adapters=2, p_min=0.0, p_max=1.0)`
            learns a ratio for each of two `parts`.
        every: K, optimizer steps per controller round.
        parts: For a merged adapter, its folder or what `read_parts` gives, so that entries compete only
            within the adapter they came from. None: each LoRA factor is one prune unit. An adapter that was
            not trained yet is pruned from the first round on.
        unit, importance_refresh: See `Pruning`.
        select, margin: See `select_ratio`.
        dev: Other held-out examples than those of `micro_dev`, in the same form: after the last step p*, no
            pruning and p*'s neighbours are evaluated on them once, which `look` then has, and which warnings
            in the log are about.
        reset_moments: Whether a commit clears the optimizer's moments of entries that it prunes or revives.
        folder: Where `rounds.jsonl` and `timings.jsonl` are written; None writes nothing.
        max_length, max_new_tokens, token_budget, prompt_format: How held-out rows are encoded and batched;
            see `TargetLoss`. An eval_dataset is as the Trainer has it.

    Raises:
        GraspError: Micro-dev and reward, or neither and no eval_dataset; an unusable row; parts that are not
            there. And as training begins: another callback that prunes, no trainable LoRA adapter, or a
            checkpoint without its state.

    Examples:
        >>> grasp = GraspCallback(trainer, micro_dev)  # doctest: +SKIP
        >>> trainer.add_callback(grasp)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> grasp.result.best_ratio  # doctest: +SKIP
    """

    prunes = True

    def __init__(
        self,
        trainer: Trainer,
        micro_dev: Sequence[Row] | None = None,
        *,
        reward: Reward | None = None,
        policy: RatioPolicy | None = None,
        every: int = EVERY,
        parts: PartsOrFolder = None,
        unit: UnitKind = "adapter",
        importance_refresh: ImportanceRefresh = "round",
        select: SelectionRule = "best",
        margin: float = MARGIN,
        dev: Sequence[Row] | None = None,
        reset_moments: bool = True,
        folder: str | Path | None = None,
        max_length: int = Limits.max_length,
        max_new_tokens: int | None = Limits.max_new_tokens,
        token_budget: int = Limits.token_budget,
        prompt_format: PromptFormat = Limits.prompt_format,
    ) -> None:
        if micro_dev is not None and reward is not None:
            raise GraspError("give GraspCallback either micro_dev examples or a reward function")
        self.trainer = trainer
        limits = Limits(max_length, max_new_tokens, token_budget, prompt_format)
        examples = as_examples("micro-dev", micro_dev or [])
        self._micro_dev, self._format = examples_digest(examples), limits.prompt_format
        self._dev = as_examples("dev", dev or [])
        check_rows(examples if micro_dev is not None else None, self._dev if dev is not None else None)
        if micro_dev is None and reward is None:
            loss = evaluation_loss(trainer, "give GraspCallback micro_dev rows, or a reward function")
            self._micro_dev, reward = rows_in(loss), _reward(loss)
        self._reward = reward or self._loss_reward("micro-dev", examples, limits)
        self._dev_reward = self._loss_reward("dev", self._dev, limits) if self._dev else None
        self._options: dict[str, Any] = {
            "policy": policy,
            "every": every,
            "parts": find_parts(parts),
            "unit": unit,
            "importance_refresh": importance_refresh,
            "select": select,
            "margin": margin,
            "groups": groups_of(examples),
            "reset_moments": reset_moments,
            "folder": None if folder is None else Path(folder),
        }
        self.controller: GraspController | None = None
        self.look: Look | None = None
        self.warnings: list[str] = []

    @property
    def adapters(self) -> tuple[str, ...]:
        """Whose the ratios are, where each of the parts has one of its own; once training has begun."""
        several = self.controller is not None and self.controller.policy.adapters is not None
        return self.controller.masked.adapters if self.controller is not None and several else ()

    @property
    def result(self) -> GraspResult:
        """p* and all rounds; there once training has made a round."""
        if self.controller is None:
            raise GraspError("no training has begun: call trainer.train() first")
        return self.controller.result

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module, optimizer: Optimizer, **_: Any
    ) -> None:
        check_alone(self, self.trainer)
        carried = self.carried(args, state)
        self.look, self.warnings = None, []
        self.controller = GraspController(
            model, optimizer, self._reward, on_round=self._log_round, state=carried, **self._options
        )

    def settings(self) -> dict[str, Any]:
        chat = {} if self._format == "plain" else {"prompt_format": self._format}
        return {"micro_dev": self._micro_dev, **chat}

    def state_dict(self) -> dict[str, Any]:
        assert self.controller is not None
        return self.controller.state_dict()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.controller is not None
        due = control.should_log
        self.controller.after_optimizer_step()
        control.should_log = due  # logging a round took it for the log of the loss that is due now

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.controller is not None
        if self.controller.rounds:
            if self._dev_reward is not None:
                try:
                    self.look = self.controller.look(self._dev_reward, groups_of(self._dev))
                except GraspError as error:  # it chooses nothing: what was learned stays
                    logger.warning("no look at dev: %s", error)
            policy, found = self.controller.policy, self.result
            self.warnings = warnings_of(found.best_ratio, found.rounds, policy.p_min, policy.p_max, self.look)
            for warning in self.warnings if state.is_world_process_zero else ():
                logger.warning("%s", warning)
        self.controller.close()

    def _log_round(self, made: Round, seconds: float) -> None:
        self.trainer.log({**made.log_values(self.adapters), "grasp/round_seconds": seconds})

    def _loss_reward(self, split: str, examples: Sequence[Example], limits: Limits) -> Reward:
        otherwise = ", or give GraspCallback a reward function"
        return _reward(loss_of(self.trainer, split, examples, limits, otherwise))


def _reward(loss: TargetLoss) -> Reward:
    return lambda model: -loss.per_example(model)
