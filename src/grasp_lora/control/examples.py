"""What the callbacks that look at held-out rows have in common: the forms of a row, and its loss."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.tasks.example import Example

__all__ = ["Row", "as_examples", "check_alone", "check_rows", "loss_of"]

Row = Example | Mapping[str, Any]
"""With `prompt` and `completion` strings, as TRL has them, and perhaps a `group`."""


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
    """The loss of examples, encoded by the Trainer's tokenizer.

    Args:
        otherwise: What else one could do, where it has none.

    Raises:
        GraspError: It has none.
    """
    if trainer.processing_class is None:
        raise GraspError(
            f"the Trainer has no tokenizer to encode the {split} rows with: give it one as "
            f"processing_class{otherwise}"
        )
    return TargetLoss(examples, trainer.processing_class, trainer.model, **asdict(limits))


def _example(split: str, index: int, row: Row) -> Example:
    if isinstance(row, Example):
        return row
    prompt, completion = row.get("prompt"), row.get("completion")
    if not isinstance(prompt, str) or not isinstance(completion, str):
        found = ", ".join(f"{key} ({type(value).__name__})" for key, value in row.items()) or "nothing"
        raise GraspError(f"{split} row {index} needs `prompt` and `completion` strings, has {found}")
    return Example(str(index), prompt, completion, group=str(row.get("group") or ""))
