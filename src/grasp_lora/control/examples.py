"""What the callbacks that look at held-out rows have in common: the forms of a row, and its loss."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.chat import messages_in_chat
from grasp_lora.lm.encoding import Encoded, Limits, encode, lost_targets
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.tasks.example import Example

__all__ = ["Row", "as_examples", "check_alone", "check_rows", "loss_of"]

logger = logging.getLogger(__name__)

Row = Example | Mapping[str, Any]
"""As TRL has it, perhaps with a `group`: `prompt` and `completion`, both strings or both lists of messages;
`messages`, of which the last one is the target; or a `text` that is all target."""


@dataclass(frozen=True, slots=True)
class _Messages(Example):
    """A row of messages as JSON: those before the answer with what else the chat template is given, and the
    answer's.
    """


@dataclass(frozen=True, slots=True)
class _Text(Example):
    """A row that is all target, but for its first token, which nothing comes before."""


def as_examples(split: str, rows: Sequence[Row]) -> list[Example]:
    """Examples as they are, and rows as examples.

    Raises:
        GraspError: A row is neither.
    """
    return [_example(split, index, row) for index, row in enumerate(rows)]


def check_rows(micro_dev: Sequence[Example] | None, dev: Sequence[Example] | None) -> None:
    """Rows that were given are some, and dev has none that the ratio is chosen on.

    Raises:
        GraspError: They are not.
    """
    for name, rows in {"micro_dev": micro_dev, "dev": dev}.items():
        if rows is not None and not rows:
            raise GraspError(f"{name} has no rows")
    seen = {(example.prompt, example.target) for example in micro_dev or ()}
    for index, example in enumerate(dev or ()):
        if (example.prompt, example.target) in seen:
            raise GraspError(f"dev row {index} is in micro_dev, which chooses the ratio: give dev other rows")


def check_alone(callback: Any, trainer: Any) -> None:
    """One callback of a Trainer prunes.

    Raises:
        GraspError: Another does, too.
    """
    callbacks = trainer.callback_handler.callbacks
    others = [one for one in callbacks if getattr(one, "prunes", False) and one is not callback]
    if others:
        raise GraspError(
            f"the Trainer has a {type(others[0]).__name__} beside its {type(callback).__name__}, and both "
            "would prune the adapter: remove one. A final run at the learned ratio is a training of its own"
        )


def loss_of(
    trainer: Any, split: str, examples: Sequence[Example], limits: Limits, otherwise: str = ""
) -> TargetLoss:
    """The loss of examples, encoded by the Trainer's tokenizer; of messages, in the Trainer's chat template.

    Args:
        otherwise: What else one could do, where it has none.

    Raises:
        GraspError: It has none; or a row does not fit, or has nothing to predict.
    """
    tokenizer = trainer.processing_class
    if tokenizer is None:
        raise GraspError(
            f"the Trainer has no tokenizer to encode the {split} rows with: give it one as "
            f"processing_class{otherwise}"
        )
    template = getattr(trainer, "chat_template", None)  # TRL's, which may differ from the tokenizer's own
    encoded = [
        _encoded(f"{split} row {i}", one, tokenizer, limits, template) for i, one in enumerate(examples)
    ]
    if lost := lost_targets(encoded):
        logger.warning("%s", lost)
    collate = TargetCollator(tokenizer, trainer.model)
    return TargetLoss.from_encoded(encoded, collate, token_budget=limits.token_budget)


def _example(split: str, index: int, row: Row) -> Example:
    if isinstance(row, Example):
        return row
    if not isinstance(row, Mapping):
        raise GraspError(f"{split} row {index} is {type(row).__name__}, not a mapping with a row's columns")
    group = str(row.get("group") or "")
    prompt, completion, text = (row.get(key) for key in ("prompt", "completion", "text"))
    if isinstance(prompt, str) and isinstance(completion, str):
        return Example(str(index), prompt, completion, group=group)
    if len(messages := _messages(row.get("messages"))) > 1:
        prompt, completion = messages[:-1], messages[-1:]
    if _messages(prompt) and (answer := _messages(completion)):
        if answer[-1]["role"] != "assistant" or not answer[-1].get("content"):
            raise GraspError(
                f"{split} row {index} ends in no message of the assistant with a content, which is the target"
            )
        tools = row.get("tools")
        tools = json.loads(tools) if isinstance(tools, str) else tools
        options = {**(row.get("chat_template_kwargs") or {}), **({"tools": tools} if tools else {})}
        as_json = [json.dumps(one, ensure_ascii=False) for one in ([prompt, options], completion)]
        return _Messages(str(index), as_json[0], as_json[1], group=group)
    if isinstance(text, str) and text:
        return _Text(str(index), "", text, group=group)
    found = ", ".join(f"{key} ({type(value).__name__})" for key, value in row.items()) or "nothing"
    raise GraspError(
        f"{split} row {index} needs `prompt` and `completion` strings or messages, `messages` of several "
        f"turns, or a `text`, has {found}"
    )


def _messages(value: Any) -> list[Mapping[str, Any]]:
    """The value, where it is messages; else none."""
    several = list(value) if isinstance(value, list | tuple) else []
    return several if all(isinstance(one, Mapping) and "role" in one for one in several) else []


def _encoded(name: str, row: Example, tokenizer: Any, limits: Limits, template: Any) -> Encoded:
    if isinstance(row, _Messages):
        (prompt, options), answer = map(json.loads, (row.prompt, row.target))
        try:
            before, ids = messages_in_chat(prompt, answer, tokenizer, chat_template=template, **options)
        except GraspError as error:
            raise GraspError(f"{name}: {error}") from None
    elif isinstance(row, _Text):
        end = "" if row.target.endswith(tokenizer.eos_token) else tokenizer.eos_token
        before, ids = 1, tokenizer(row.target + end)["input_ids"]
    else:
        return encode(row, tokenizer, limits)
    if before >= len(ids):
        raise GraspError(f"{name} has no token to predict")
    kept = ids[: before + (limits.max_new_tokens or len(ids))]
    if len(kept) > limits.max_length:
        raise GraspError(f"{name} has {len(kept)} tokens, where max_length is {limits.max_length}: raise it")
    return Encoded(tuple(kept), len(kept) - before, len(ids) - len(kept))
