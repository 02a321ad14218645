"""Rows of one kind beside those of another, as many in each step: a batch of pairs is two batches."""

import math
import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch.utils.data import Dataset
from transformers import TrainerCallback

from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Encoded
from grasp_lora.lm.saving import SavingTrainer
from grasp_lora.ranks import rank, world

__all__ = ["FindsPlace", "Pairs", "TrainerOfPairs", "collate_pairs"]


class Pairs(Dataset[tuple[Encoded, Encoded]]):
    """Each example with the next one of others that go round in random orders.

    Several processes take batches of them in turn, as they do of the examples.
    """

    def __init__(
        self, examples: Sequence[Encoded], beside: Sequence[Encoded], seed: int, batch_size: int
    ) -> None:
        self.examples, self.batch_size = examples, batch_size
        self.beside, self.seed = beside, seed
        self.go_to(0)

    def go_to(self, taken: int) -> None:
        """Go on where all processes have taken so many pairs."""
        places = islice(_round_and_round(len(self.beside), random.Random(self.seed)), taken, None)
        self._places = (
            place for n, place in enumerate(places, taken) if n // self.batch_size % world() == rank()
        )

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Encoded, Encoded]:
        return self.examples[index], self.beside[next(self._places)]


def _round_and_round(count: int, generator: random.Random) -> Iterator[int]:
    """Places of so many rows in random orders, one after the other."""
    while True:
        yield from array("I", generator.sample(range(count), count))  # they may be many


def collate_pairs(collate: TargetCollator, pairs: Sequence[tuple[Encoded, Encoded]]) -> dict[str, Any]:
    """The batch of the first ones, and that of the second ones."""
    return {"first": collate([one for one, _ in pairs]), "second": collate([other for _, other in pairs])}


class FindsPlace(TrainerCallback):
    """A run that resumes goes on in the others where it was: the Trainer only finds its place in the rows."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        together = args.train_batch_size * world()
        step = together * args.gradient_accumulation_steps
        epochs, steps = divmod(state.global_step, math.ceil(len(self.pairs) / step))
        # Several processes have as many rows each, some of which the last batches take from the beginning.
        epoch = len(self.pairs) if world() == 1 else together * math.ceil(len(self.pairs) / together)
        self.pairs.go_to(epochs * epoch + steps * step)


class TrainerOfPairs(SavingTrainer):
    """The loss is the mean of two batches' losses, however many tokens each has."""

    def compute_loss(self, model: Any, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        first = super().compute_loss(model, inputs["first"])
        return (first + super().compute_loss(model, inputs["second"])) / 2
