"""How far a training is, while it goes on."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tqdm.auto import tqdm
from transformers import TrainerCallback

from grasp_lora.cost import count_passes

__all__ = ["Progress"]


class Progress(TrainerCallback):
    """Counts the steps, and shows a bar with the latest losses and, while learning, p_curr, mu and sigma."""

    shown: ClassVar = {
        "loss": "loss",
        "dev_loss": "dev",
        "grasp/p_curr": "p",
        "grasp/mu": "mu",
        "grasp/sigma": "sigma",
    }

    def __init__(self, title: str) -> None:
        self.title = title
        self.values: dict[str, str] = {}
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = tqdm(
            total=state.max_steps, desc=self.title, unit="step", disable=not state.is_world_process_zero
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        count_passes(steps=1)
        self.bar.update()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        self.values |= {
            short: f"{logs[key]:.3f}" for key, short in self.shown.items() if logs and key in logs
        }
        if self.bar is not None:
            self.bar.set_postfix(self.values)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()
