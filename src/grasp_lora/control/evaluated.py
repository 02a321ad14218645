"""The loss of a Trainer's own eval_dataset, row by row."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from grasp_lora.errors import GraspError
from grasp_lora.lm.batches import IGNORED
from grasp_lora.lm.loss import TargetLoss

__all__ = ["evaluation_loss", "rows_in"]


def evaluation_loss(trainer: Any, otherwise: str, first: int | None = None) -> TargetLoss:
    """The loss of each row of the Trainer's eval_dataset, as its own data collator makes batches of them.

    They are batches of `per_device_eval_batch_size` rows; one by one where the collator makes one sequence of
    several. Each row weighs the same, whereas the Trainer's eval_loss is over tokens.

    Args:
        otherwise: What else one could do.
        first: How many rows, the first ones; None: all.

    Raises:
        GraspError: There is no such dataset, or a row has nothing to predict.
    """
    given = trainer.eval_dataset
    if given is None:
        raise GraspError(f"the Trainer has no eval_dataset to measure losses on: give it one, or {otherwise}")
    if isinstance(given, Mapping):
        raise GraspError(f"the Trainer has several eval_datasets ({', '.join(given)}): {otherwise}")
    loader = trainer.get_eval_dataloader()
    dataset, collate = loader.dataset, loader.collate_fn
    if not hasattr(dataset, "__len__"):
        raise GraspError(f"the Trainer's eval_dataset has no length, as it is streamed: {otherwise}")
    if not len(dataset):
        raise GraspError(
            "the Trainer's eval_dataset has no rows (TRL drops those whose answer its max_length cuts "
            f"off): give it some, or {otherwise}"
        )
    if first is not None and first > len(dataset):
        raise GraspError(f"the Trainer's eval_dataset has {len(dataset)} rows, and {first} are asked for")
    places = list(range(len(dataset) if first is None else first))
    size = trainer.args.per_device_eval_batch_size
    rows, batches = [], []
    for chunk in (places[i : i + size] for i in range(0, len(places), size)):
        batch = collate([dataset[i] for i in chunk])
        if len(_labels(batch, otherwise)) == len(chunk):
            made = [(chunk, batch)]
        else:  # one sequence of all
            made = [([i], collate([dataset[i]])) for i in chunk]
        for several, one in made:
            empty = (one["labels"][:, 1:] == IGNORED).all(1).tolist()
            if True in empty:
                raise GraspError(f"eval_dataset row {several[empty.index(True)]} has no token to predict")
            rows.append(several)
            batches.append(dict(one))
    return TargetLoss.from_batches(rows, batches)


def rows_in(loss: TargetLoss) -> str:
    """A SHA-256 of the rows' tokens and labels, however they are batched."""
    found = hashlib.sha256()
    for batch in map(dict[str, Any], loss.batches):
        mask = batch.get("attention_mask")
        for row, (ids, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
            kept = ids if mask is None else ids[mask[row].bool()]
            found.update(json.dumps([kept.tolist(), labels[labels != IGNORED].tolist()]).encode())
    return found.hexdigest()


def _labels(batch: Mapping[str, Any], otherwise: str) -> Tensor:
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        raise GraspError(
            "the Trainer's data collator makes no labels of its eval_dataset, and without there is no loss: "
            f"{otherwise}"
        )
    return labels
