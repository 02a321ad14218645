"""The loss on target tokens: in training, on the dev sets, and as the controller's reward."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grasp_lora.cost import count_passes
from grasp_lora.errors import GraspError
from grasp_lora.lm.batches import IGNORED, TargetCollator, batches_by_tokens
from grasp_lora.lm.chat import PromptFormat
from grasp_lora.lm.encoding import Encoded, Limits, encode, lost_targets
from grasp_lora.lm.sharded import is_sharded
from grasp_lora.ranks import rank, summed, world
from grasp_lora.tasks.example import Example

__all__ = ["TargetLoss", "evaluation_mode", "target_nll"]

logger = logging.getLogger(__name__)


def target_nll(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Each example's mean negative log likelihood over its target tokens, in nats.

    Args:
        batch: As `TargetCollator` makes it, on the model's device; row i has k labels, -100 where there is
            nothing to predict.

    Returns:
        (batch,) in float32.
    """
    inputs = dict(batch)
    following: Tensor = inputs.pop("labels")[:, 1:]
    targets = following != IGNORED
    with _logits_only_at(targets, model) as reduced:
        logits = model(**inputs, use_cache=False).logits
    rows = logits[0] if reduced else logits[:, :-1][targets]  # (tokens, vocabulary)
    nll = torch.nn.functional.cross_entropy(rows.float(), following[targets], reduction="none")
    per_token = torch.zeros_like(targets, dtype=torch.float32).masked_scatter(targets, nll)
    return per_token.sum(1) / targets.sum(1)


@contextmanager
def _logits_only_at(targets: Tensor, model: Any) -> Iterator[list[bool]]:
    """Let the output embedding see only the positions before a target, as one row (1, tokens, hidden).

    `logits_to_keep` cuts a rectangle; in a batch most of it is padding of short answers, and each position
    costs a product with the whole vocabulary. Yields a list that is not empty once that was done; a model
    whose output embedding is not a module with one input of the expected shape is left alone.
    """
    done: list[bool] = []
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None

    def select(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor] | None:
        hidden = arguments[0] if len(arguments) == 1 else None
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != (targets.shape[0], targets.shape[1] + 1):
            return None
        done.append(True)
        where = targets.to(hidden.device)  # a backbone may be spread over several
        return (hidden[:, :-1][where].unsqueeze(0),)

    handle = head.register_forward_pre_hook(select) if isinstance(head, nn.Module) else None
    try:
        yield done
    finally:
        if handle is not None:
            handle.remove()


class TargetLoss:
    """Mean over examples of each example's mean NLL over its target tokens, end-of-text included.

    Examples are encoded and batched once, longest first by token budget; batching changes the value only
    by rounding. In a distributed run each rank evaluates its part of the batches, and one all-reduce of
    the per-example losses gives every rank the same value.

    The model is put in eval mode for the call. Minus the value is the paper's reward (Sec. 3.3).

    Args:
        examples: At least one.
        tokenizer: A Hugging Face tokenizer with a padding token.
        model: To see what its forward takes; it is not kept.
        max_length, max_new_tokens, token_budget, prompt_format: See `grasp_lora.lm.encoding.Limits`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Any,
        model: nn.Module,
        *,
        max_length: int = Limits.max_length,
        max_new_tokens: int | None = Limits.max_new_tokens,
        token_budget: int = Limits.token_budget,
        prompt_format: PromptFormat = Limits.prompt_format,
    ) -> None:
        limits = Limits(max_length, max_new_tokens, token_budget, prompt_format)
        encoded = [encode(example, tokenizer, limits) for example in examples]
        if lost := lost_targets(encoded):
            logger.warning("%s", lost)
        self._batch(encoded, TargetCollator(tokenizer, model), token_budget)

    @classmethod
    def from_encoded(
        cls, encoded: Sequence[Encoded], collate: TargetCollator, *, token_budget: int = 4096
    ) -> "TargetLoss":
        """The same of examples that are token ids already."""
        loss = cls.__new__(cls)
        loss._batch(encoded, collate, token_budget)
        return loss

    @classmethod
    def from_batches(cls, rows: Sequence[list[int]], batches: Sequence[dict[str, Any]]) -> "TargetLoss":
        """The same of batches that are made already, with which rows, counted from 0, are in each."""
        if not rows:
            raise GraspError("cannot evaluate a loss on no examples")
        loss = cls.__new__(cls)
        loss.count, loss.rows, loss.batches = sum(map(len, rows)), list(rows), list(batches)
        return loss

    def _batch(self, encoded: Sequence[Encoded], collate: TargetCollator, token_budget: int) -> None:
        if not encoded:
            raise GraspError("cannot evaluate a loss on no examples")
        self.count = len(encoded)
        self.rows = batches_by_tokens([len(e) for e in encoded], token_budget)
        self.batches = [collate([encoded[i] for i in rows]) for rows in self.rows]

    def __call__(self, model: nn.Module) -> float:
        with evaluation_mode(model):
            return self.per_example(model).double().mean().item()

    @torch.no_grad()
    def per_example(self, model: nn.Module, seen: Callable[[int], None] | None = None) -> Tensor:
        """The loss of every example, in the order given: (examples,), float32.

        Args:
            seen: Told how many examples each batch had, once it is done.
        """
        device = next(model.parameters()).device
        losses = torch.zeros(self.count, device=device)
        for rows, batch in self._share(model):
            inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            if not rows:  # others have one batch more
                target_nll(model, inputs)
                continue
            losses[torch.tensor(rows, device=device)] = target_nll(model, inputs)
            count_passes(forward=len(rows))
            if seen is not None:
                seen(len(rows))
        return summed(losses)

    def _share(self, model: nn.Module) -> list[tuple[Sequence[int], Mapping[str, Any]]]:
        """This process's batches, and their rows. A sharded model's forward pass needs every process: who has
        one batch less takes one whose rows it does not count.
        """
        batches: list[tuple[Sequence[int], Mapping[str, Any]]] = list(
            zip(self.rows, self.batches, strict=True)
        )
        own = batches[rank() :: world()]
        if is_sharded(model) and len(own) < math.ceil(len(batches) / world()):
            own.append(((), self.batches[-1]))
        return own


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients; afterwards each module is in the mode it was in."""
    modules = _modules(model)
    training = [module for module in modules if module.training]
    _switch(training, False)
    try:
        with torch.no_grad():
            yield
    finally:
        _switch([module for module in modules if module.training], False)  # what the block has left so
        _switch(training, True)


def _modules(model: nn.Module) -> list[nn.Module]:
    # `model.modules()` goes through a generator for each depth: of a thousand modules 0.7 instead of 0.2 ms.
    found = dict.fromkeys([model])  # each once
    beyond = [model]
    while beyond:
        children = [c for module in beyond for c in module._modules.values() if c is not None]
        beyond = [*dict.fromkeys(child for child in children if child not in found)]
        found.update(dict.fromkeys(beyond))
    return [*found]


def _switch(modules: Sequence[nn.Module], training: bool) -> None:
    # What `module.training = ...` comes to, without the search for parameters and buffers of that name: of a
    # thousand modules 0.1 instead of 2.5 ms, four times a round.
    for module in modules:
        object.__setattr__(module, "training", training)
