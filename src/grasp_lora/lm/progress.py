"""How far a training is, while it goes on."""

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import TrainerCallback

from grasp_lora.cost import count_passes
from grasp_lora.lm.shown import Counter, Shown

__all__ = ["Progress"]


class Progress(TrainerCallback):
    """Counts the steps, and shows them with the latest losses and, while learning, p_curr, mu and sigma.

    Args:
        shown: Whose work the training is, or a part of it.
        part: Which of its trainings it is, where it has several.
    """

    values: ClassVar = {
        "loss": "loss",
        "dev_loss": "dev",
        "grasp/p_curr": "p",
        "grasp/mu": "mu",
        "grasp/sigma": "sigma",
    }

    def __init__(self, shown: Shown, part: str = "") -> None:
        self.shown, self.part = shown, part
        self.counter: Counter | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.counter = Counter(
            self.shown,
            state.max_steps,
            "step",
            start=state.global_step,  # not 0 where a run is resumed
            part=self.part,
            quiet=not state.is_world_process_zero,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        count_passes(steps=1)
        assert self.counter is not None, "training begins before its first step"
        self.counter.update()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        if self.counter is not None:
            known = {}
            for key, value in (logs or {}).items():
                name, adapter = "/".join((parts := key.split("/"))[:2]), " ".join(parts[2:])
                if name in self.values:
                    known[f"{self.values[name]} {adapter}".strip()] = f"{value:.3f}"
            self.counter.show(known)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.counter is not None, "training begins before its end"
        self.counter.close()
