"""The controller in a `transformers.Trainer`, and a fixed mask for the final run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grasp_lora.control.controller import GraspController, GraspResult, Reward, Round, SelectionRule
from grasp_lora.control.masked import ImportanceRefresh, MaskedAdapter
from grasp_lora.control.merge_prune import GradientImportance, InputImportance, Rescore, StepPruner
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.control.pruning import AdapterPart, UnitKind, adapter_parameters, entries_to_prune
from grasp_lora.errors import GraspError
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.merging.parts import read_parts
from grasp_lora.tasks.example import Example

__all__ = ["FixedMaskCallback", "GraspCallback", "MergePruneCallback"]

Parts = Mapping[str, Sequence[AdapterPart]] | str | Path | None


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
        unit, importance_refresh: See `MaskedAdapter`.
        select: See `select_ratio`.
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
        every: int = 10,
        parts: Parts = None,
        unit: UnitKind = "adapter",
        importance_refresh: ImportanceRefresh = "round",
        select: SelectionRule = "best",
        folder: str | Path | None = None,
        max_length: int = 2200,
        max_new_tokens: int | None = None,
        token_budget: int = 4096,
    ) -> None:
        if (micro_dev is None) == (reward is None):
            raise GraspError("give GraspCallback either micro_dev examples or a reward function")
        self.trainer = trainer
        self._reward = reward or self._loss_reward(micro_dev or [], max_length, max_new_tokens, token_budget)
        self._options: dict[str, Any] = {
            "policy": policy,
            "every": every,
            "parts": _parts(parts),
            "unit": unit,
            "importance_refresh": importance_refresh,
            "select": select,
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
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: Optimizer,
        **_: Any,
    ) -> None:
        others = [
            c for c in self.trainer.callback_handler.callbacks if isinstance(c, _PRUNING) and c is not self
        ]
        if others:
            raise GraspError(
                f"the Trainer has a {type(others[0]).__name__} beside its GraspCallback, and both would "
                "prune the adapter: remove one. A final run at the learned ratio is a training of its own"
            )
        self.controller = GraspController(
            model, optimizer, self._reward, on_round=self._log_round, **self._options
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert self.controller is not None
        due = control.should_log
        self.controller.after_optimizer_step()
        control.should_log = due  # logging a round took it for the log of the loss that is due now

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert self.controller is not None
        self.controller.close()

    def _log_round(self, made: Round, seconds: float) -> None:
        self.trainer.log({**made.log_values(), "grasp/round_seconds": seconds})

    def _loss_reward(
        self,
        rows: Sequence[Example | Mapping[str, Any]],
        max_length: int,
        max_new_tokens: int | None,
        token_budget: int,
    ) -> Reward:
        if self.trainer.processing_class is None:
            raise GraspError(
                "the Trainer has no tokenizer to encode the micro-dev rows with: give it one as "
                "processing_class, or give GraspCallback a reward function"
            )
        loss = TargetLoss(
            [_example(i, row) for i, row in enumerate(rows)],
            self.trainer.processing_class,
            self.trainer.model,
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            token_budget=token_budget,
        )
        return lambda model: -loss(model)


class FixedMaskCallback(TrainerCallback):
    """Keeps one mask through a training run: the final run of Sec. 3.4.

    The mask is built once at `p`, from the adapter's own magnitudes before the first step.

    Args:
        p: Prune ratio in [0, 1].
        parts, unit: As for `GraspCallback`.
        after_steps: Optimizer steps to train before the mask is built; a new adapter, whose magnitudes say
            nothing, needs some.

    Raises:
        GraspError: The ratio is out of its range. And as training begins: the adapter was not trained yet, or
            training ends before the mask would be built.
    """

    def __init__(
        self, p: float, *, parts: Parts = None, unit: UnitKind = "adapter", after_steps: int = 0
    ) -> None:
        entries_to_prune(p, 0)  # checks it
        if after_steps < 0:
            raise GraspError(f"after_steps must be at least 0, got {after_steps}")
        self.p, self.after_steps = p, after_steps
        self._parts, self._unit = _parts(parts), unit
        self.masked: MaskedAdapter | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **_: Any,
    ) -> None:
        self.masked = MaskedAdapter(adapter_parameters(model), self._parts, unit=self._unit)
        if self.after_steps and self.after_steps >= state.max_steps:
            raise GraspError(
                f"the mask would be built after {self.after_steps} steps, and training takes "
                f"{state.max_steps}: lower after_steps"
            )
        if not self.after_steps:
            self._build()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert self.masked is not None
        if self.after_steps and state.global_step == self.after_steps:
            self._build()
        self.masked.zero_pruned()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        assert self.masked is not None
        self.masked.close()

    def _build(self) -> None:
        assert self.masked is not None
        if self.p > 0 and self.masked.nothing_to_prune_by():
            raise GraspError(
                "the adapter does nothing yet (its B, or its A, is all zeros), so its magnitudes do not "
                "say what to prune: load a trained adapter, or give after_steps, the steps to train it before"
            )
        self.masked.commit(self.p)  # nothing comes back, so no moments need clearing


class MergePruneCallback(TrainerCallback):
    """Adaptive LoRA merge with pruning (Miyano & Arase, 2025): resets entries after every optimizer step.

    Args:
        p: Ratio of entries to reset per unit; for `unit="parameter"`.
        validation: The batched validation set; needed for `importance="input"` with `rescore="validation"`.
        parts: As for `GraspCallback`.
        importance: "input" or "gradient".
        unit, value, threshold: See `StepPruner`.
        rescore_every: Optimizer steps between two evaluations of the importance; 1 is the paper's.
        rescore: Where the inputs come from, see `InputImportance`; "validation" is the paper's. With
            "train_batch" the model has hooks on it until training ends, or until a run that raised is
            followed by another or this callback is dropped.

    Attributes:
        scores: The importance that the last step pruned by, one tensor per factor.
    """

    def __init__(
        self,
        p: float,
        *,
        validation: TargetLoss | None = None,
        parts: Parts = None,
        importance: Literal["input", "gradient"] = "input",
        unit: Literal["parameter", "module"] = "parameter",
        value: Literal["zero", "init"] = "zero",
        threshold: float = 0.0,
        rescore_every: int = 1,
        rescore: Rescore = "validation",
    ) -> None:
        if importance == "input" and rescore == "validation" and validation is None:
            raise GraspError("importance from inputs needs a validation set, or rescore='train_batch'")
        self.p, self.validation, self.importance = p, validation, importance
        self.rescore_every, self.rescore = rescore_every, rescore
        self._parts = _parts(parts)
        self._options: dict[str, Any] = {"p": p, "unit": unit, "value": value, "threshold": threshold}
        self._score: InputImportance | GradientImportance | None = None
        self._pruner: StepPruner | None = None
        self.scores: list[Tensor] = []

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        **_: Any,
    ) -> None:
        self._close()
        parameters = adapter_parameters(model)
        self._pruner = StepPruner(parameters, self._parts, **self._options)
        if self.importance == "input":
            self._score = InputImportance(
                model, parameters, self.validation, self._parts, self.rescore, self._options["unit"]
            )
        else:
            self._score = GradientImportance(list(parameters.values()))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        # The gradients are still there. `global_step` counts the steps before this one.
        assert self._score is not None
        assert self._pruner is not None
        if self.importance == "gradient" or state.global_step % self.rescore_every == 0:
            self.scores = self._score()
        self._pruner.prune(self.scores)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._close()

    def _close(self) -> None:
        if isinstance(self._score, InputImportance):
            self._score.close()


_PRUNING = (GraspCallback, FixedMaskCallback, MergePruneCallback)


def _parts(parts: Parts) -> Mapping[str, Sequence[AdapterPart]] | None:
    if not isinstance(parts, str | Path):
        return parts
    if (found := read_parts(Path(parts))) is None:
        raise GraspError(
            f"parts='{parts}': there is no parts.json. Give the folder that merge_adapters wrote, or leave "
            "parts out for an adapter that was not merged"
        )
    return found


def _example(index: int, row: Example | Mapping[str, Any]) -> Example:
    if isinstance(row, Example):
        return row
    prompt, completion = row.get("prompt"), row.get("completion")
    if not isinstance(prompt, str) or not isinstance(completion, str):
        found = ", ".join(f"{key} ({type(value).__name__})" for key, value in row.items()) or "nothing"
        raise GraspError(f"micro-dev row {index} needs `prompt` and `completion` strings, has {found}")
    return Example(str(index), prompt, completion)
