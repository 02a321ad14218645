"""Thousands of controller rounds: neither memory nor the time of a round grows with their number."""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import torch
from tests.helpers.models import tiny_llama
from tests.helpers.tokenizer import tiny_tokenizer
from tests.large.measuring import memory, result
from transformers import TrainerCallback

from grasp_lora.control.callback import GraspCallback
from grasp_lora.control.policy import RatioPolicy
from grasp_lora.control.selection import SelectionRule, select_ratio
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.encoding import Limits, encode
from grasp_lora.lm.training import Training, build_trainer
from grasp_lora.tasks.example import Example

WARM_UP = 100  # rounds after which allocators have what they need
BLOCK = 100


class _Watch(TrainerCallback):
    """CPU seconds of each step with its round, and the memory after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.memory: list[float] = []
        self.last = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.thread_time()
        self.seconds.append(now - self.last)
        self.memory.append(memory() if state.global_step % 10 == 0 else 0.0)
        self.last = time.thread_time()


def deep_size(value: Any) -> int:
    """Bytes of a structure of lists, tuples, dicts and dataclasses; what is in it twice counts twice."""
    own = sys.getsizeof(value)
    if isinstance(value, dict):
        return own + sum(deep_size(part) for part in value.values())
    if isinstance(value, list | tuple):
        return own + sum(map(deep_size, value))
    if hasattr(value, "__slots__"):
        return own + sum(deep_size(getattr(value, name)) for name in value.__slots__)
    return own


def many_rounds(count: int) -> list[dict[str, Any]]:
    """A learning run of `count` rounds, K = 1, with all of its logs, TensorBoard's events included."""
    torch.manual_seed(0)
    model = new_adapter(tiny_llama(), Lora(r=4))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    examples = [Example(str(i), f"say {'abc' * (i % 4)} {i}\n", "ab") for i in range(32)]
    tokenizer, limits = tiny_tokenizer(), Limits(40, 4)
    encoded = [encode(example, tokenizer, limits) for example in examples]
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            model, tokenizer, encoded, Training(max_steps=count), 0, Path(folder), "rounds"
        )
        policy = RatioPolicy(eta=0.0, tau=0.0)  # stays as it is: then all rounds are alike
        grasp = GraspCallback(trainer, examples[:4], policy=policy, every=1, max_length=40, folder=folder)
        watch = _Watch()
        trainer.add_callback(grasp)
        trainer.add_callback(watch)
        watch.last = time.thread_time()
        trainer.train()
    rounds = grasp.result.rounds
    assert len(rounds) == count
    first = statistics.median(watch.seconds[WARM_UP : WARM_UP + BLOCK])
    last = statistics.median(watch.seconds[-BLOCK:])
    growth = watch.memory[-1 - count % 10] - watch.memory[WARM_UP - 1]
    kept = {
        "rounds_mb": round(deep_size(rounds) / 2**20, 2),
        "trainer_log_history_mb": round(deep_size(trainer.state.log_history) / 2**20, 2),
    }
    size = f"{count:,} rounds, K = 1"
    drift = {"first_ms": round(first * 1000, 2), "last_ms": round(last * 1000, 2)}
    found = [
        result("memory growth over a learning run", size, growth, "MB", 20.0, **kept),
        result(
            "a round's time at the end against the beginning",
            size,
            last / first - 1,
            "share of time",
            0.05,
            **drift,
        ),
    ]
    for rule in get_args(SelectionRule):
        start = time.process_time()
        select_ratio(rounds, rule)
        found.append(result(f"choosing p* by {rule}", size, time.process_time() - start, "s", 2.0))
    return found
