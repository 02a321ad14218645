"""A training step, a probe and a round: beside the plain way, and beside what the machine can do.

    python -m benchmarks step                                  # Gemma 3 270M, 256 and 512 tokens
    python -m benchmarks step --backbone FOLDER --tokens 1024 --predicted 64 --batch 4 --checkpointing

The plain way is PEFT and a `Trainer` with labels at every position and logits at all of them, and micro-dev
examples one by one, as the authors evaluate them. Trainings of both kinds take turns in one process, on one
backbone and one adapter, whose mask the product enforces after every step; so do evaluations. Rows are random
token ids, all of one length. A step's own operations at the rate that a large matrix product has on this
machine are its limit.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks._common import keep, limits, operations, positive, seconds, spread, table, wait
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from grasp_lora import GraspCallback
from grasp_lora.cost import measure
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.backbone import load_backbone, pick_device, resolve_dtype
from grasp_lora.lm.batches import TargetCollator
from grasp_lora.lm.encoding import Encoded
from grasp_lora.lm.loss import TargetLoss
from grasp_lora.lm.passes import computed_twice
from grasp_lora.lm.training import Training, build_trainer

TITLE = "A training step, a probe and a round"
MICRO_DEV, CANDIDATES = 16, 3


class _Clock(TrainerCallback):
    """Seconds from the end of one step to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait()
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]


def random_rows(vocabulary: int, count: int, tokens: int, predicted: int) -> list[Encoded]:
    """Token ids drawn evenly."""
    ids = torch.randint(3, vocabulary, (count, tokens), generator=torch.Generator().manual_seed(0))
    return [Encoded(tuple(row.tolist()), predicted) for row in ids]


def plain_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """The same batch the plain way: labels at every position, logits of all of them."""
    length, kept = batch["input_ids"].shape[1], batch["labels"].shape[1]
    labels = nn.functional.pad(batch["labels"], (length - kept, 0), value=-100)
    return {k: v for k, v in batch.items() if k != "logits_to_keep"} | {"labels": labels}


class Bench:
    """One backbone with one adapter, and the rows that it is trained on."""

    def __init__(self, given: argparse.Namespace, tokens: int, scratch: Path) -> None:
        self.given, self.tokens, self.scratch = given, tokens, scratch
        self.loaded = load_backbone(
            given.backbone, dtype=given.dtype, quantization=given.quantization, attention=given.attention
        )
        vocabulary = min(self.loaded.model.config.vocab_size, len(self.loaded.tokenizer))
        self.model = new_adapter(self.loaded.model, Lora())
        for name, factor in self.model.named_parameters():
            if "lora_B" in name:  # zero until it is trained: there would be nothing to mask
                nn.init.normal_(factor, std=1e-3)
        count = max(MICRO_DEV, given.batch * (given.steps + 1))
        self.rows = random_rows(vocabulary, count, tokens, given.predicted)
        self.collate = TargetCollator(self.loaded.tokenizer, self.model)
        self.loss = TargetLoss.from_encoded(self.rows[:MICRO_DEV], self.collate, token_budget=given.budget)

    def ours(self, turn: int, **how: Any) -> list[float]:
        """Steps of the product's Trainer under a mask; with `every`, rounds are made, too."""
        folder = self.scratch / f"ours{turn}"
        training = Training(
            max_steps=how.pop("steps", self.given.steps + 1),
            batch_size=self.given.batch,
            learning_rate=1e-5,
            gradient_checkpointing=self.given.checkpointing,
            torch_compile=self.given.compile,
        )
        trainer = build_trainer(self.model, self.loaded.tokenizer, self.rows, training, 0, folder, "step")
        how = {"every": 10**6} | how
        self.callback = GraspCallback(
            trainer, reward=lambda m: -self.loss.per_example(m), folder=folder, **how
        )
        trainer.add_callback(self.callback)
        trainer.add_callback(clock := _Clock())  # after it: the mask is in force again when a step ends
        trainer.train()
        return clock.seconds

    def plain(self, turn: int) -> list[float]:
        """Steps of PEFT and the Trainer alone."""
        arguments = TrainingArguments(
            output_dir=str(self.scratch / f"plain{turn}"),
            max_steps=self.given.steps + 1,
            per_device_train_batch_size=self.given.batch,
            learning_rate=1e-5,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
            **(computed_twice() if self.given.checkpointing else {}),
        )
        clock = _Clock()
        rows: Any = self.rows
        trainer = Trainer(
            self.model, arguments, train_dataset=rows, callbacks=[clock],
            data_collator=lambda rows: plain_batch(self.collate(rows)),
        )  # fmt: skip
        trainer.train()
        return clock.seconds

    def probes(self) -> list[float]:
        """The micro-dev loss."""
        return seconds(lambda: self.loss(self.model), 1)

    @torch.no_grad()
    def probes_plain(self) -> list[float]:
        """The same one by one, with all logits."""
        device = next(self.model.parameters()).device
        batches = [plain_batch(self.collate([row])) for row in self.rows[:MICRO_DEV]]
        batches = [{k: v.to(device) for k, v in batch.items()} for batch in batches]
        self.model.eval()
        return seconds(lambda: [self.model(**batch).loss.item() for batch in batches], 1)

    def rounds(self) -> tuple[list[float], list[float]]:
        """Seconds of whole rounds, and of the evaluations in each."""
        self.ours(-1, every=1, steps=self.given.repeats + 1)
        lines = (self.scratch / "ours-1" / "timings.jsonl").read_text().splitlines()[1:]
        made = [json.loads(line) for line in lines]
        return [one["seconds"] for one in made], [one["reward_seconds"] for one in made]


def measured(given: argparse.Namespace, tokens: int, rate: float) -> dict[str, Any]:
    """Everything at one length."""
    found: dict[str, list[float]] = {"step": [], "step_plain": [], "probe": [], "probe_plain": []}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given, tokens, Path(folder))
        with measure() as training:
            bench.ours(-2)  # compiles, allocates, fills caches
        for turn in range(given.repeats):
            found["step"] += bench.ours(turn)
            found["probe"] += bench.probes()
            if not given.alone:
                found["step_plain"] += bench.plain(turn)
                found["probe_plain"] += bench.probes_plain()
        with measure() as rounds:
            found["round"], found["round_evaluations"] = bench.rounds()
    work = {
        key: operations(bench.loaded.model, tokens, n)
        for key, n in (("own", given.predicted), ("all", tokens))
    }
    middle = {key: statistics.median(values) for key, values in found.items() if values}
    own, every = work["own"], work["all"]
    shares = {
        "step_mfu": own["step"] * given.batch / middle["step"] / rate,
        "probe_mfu": own["forward"] * MICRO_DEV / middle["probe"] / rate,
        "round_mfu": own["forward"] * MICRO_DEV * (CANDIDATES + 1) / middle["round_evaluations"] / rate,
        "operations_share": own["step"] / every["step"],
        "operations_share_probe": own["forward"] / every["forward"],
        "round_over_evaluations": statistics.median(
            whole / part for whole, part in zip(found["round"], found["round_evaluations"], strict=True)
        ),
    }
    if not given.alone:
        shares["step_ratio"] = middle["step"] / middle["step_plain"]
        shares["probe_ratio"] = middle["probe"] / middle["probe_plain"]
    memory = {
        "step_gpu_bytes": training.peak_gpu_memory_bytes,
        "round_gpu_bytes": rounds.peak_gpu_memory_bytes,
        "step_bytes": training.peak_memory_bytes,
        "round_bytes": rounds.peak_memory_bytes,
    }
    return {"tokens": tokens, "seconds": found, "shares": shares, "memory": memory, "operations": work}


def _gib(memory: dict[str, int]) -> str:
    kind = "gpu_bytes" if memory["step_gpu_bytes"] else "bytes"
    return " / ".join(f"{memory[f'{what}_{kind}'] / 2**30:.2f}" for what in ("step", "round")) + " GiB"


def render(run: dict[str, Any]) -> str:
    """A run as Markdown."""
    how = run["how"]
    limit = run["limits"]
    rows: list[list[object]] = []
    for one in run["lengths"]:
        s, shares = one["seconds"], one["shares"]
        for name, key, over in (
            ("step", "step", "operations_share"),
            ("16 probes", "probe", "operations_share_probe"),
        ):
            plain = s.get(f"{key}_plain") or []
            row: list[object] = [f"{name}, {one['tokens']} tokens", spread(s[key], 1e3, 1)]
            row += [spread(plain, 1e3, 1), f"{shares[f'{key}_ratio']:.2f}"] if plain else ["", ""]
            rows.append([*row, f"{shares[over]:.2f}", f"{100 * shares[f'{key}_mfu']:.0f} %"])
        row = [spread(s[key], 1e3, 1) for key in ("round", "round_evaluations")]
        over_evaluations = f"{shares['round_over_evaluations']:.3f}"
        mfu = f"{100 * shares['round_mfu']:.0f} %"
        rows.append([f"round, {one['tokens']} tokens", *row, over_evaluations, "", mfu])
    memory = "; ".join(f"{one['tokens']} tokens {_gib(one['memory'])}" for one in run["lengths"])
    head = [
        "",
        "ms",
        "plain way, ms (round: its evaluations)",
        "ratio",
        "ratio of operations",
        "of the matrix rate",
    ]
    said = ", ".join(f"{key} {value}" for key, value in how.items() if value not in (None, False))
    return (
        f"{said}\n\nMatrix products: float32 {limit['float32_per_s'] / 1e12:.2f}, bfloat16 "
        f"{limit['bfloat16_per_s'] / 1e12:.2f} TFLOP/s; copying {limit['bytes_per_s'] / 1e9:.0f} GB/s.\n\n"
        f"{table(head, rows)}\n\nPeak memory of training / with rounds: {memory}.\n"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="packaged:gemma-3-270m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantization", choices=["nf4", "int8"])
    parser.add_argument("--attention", choices=["sdpa", "flash_attention_2", "eager"])
    parser.add_argument("--tokens", type=positive, nargs="+", default=[256, 512], help="of each row")
    parser.add_argument("--predicted", type=positive, default=16, help="tokens of each row that are targets")
    parser.add_argument("--batch", type=positive, default=1)
    parser.add_argument("--budget", type=positive, default=4096, help="tokens of one evaluation batch")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--alone", action="store_true", help="do not measure the plain way")
    parser.add_argument("--steps", type=positive, default=4, help="of each training")
    parser.add_argument("--repeats", type=positive, default=5, help="turns")
    parser.add_argument("--out", default="step", metavar="NAME", help="of the files in benchmarks/results")
    given = parser.parse_args(argv)
    limit = limits(pick_device())
    dtype = resolve_dtype(given.dtype)
    rate = limit["bfloat16_per_s" if dtype == "bfloat16" else "float32_per_s"]
    how = {k: v for k, v in vars(given).items() if k not in ("tokens", "out")} | {"dtype": dtype}
    how["backbone"] = Path(given.backbone).name
    run = {"how": how, "limits": limit, "lengths": [measured(given, n, rate) for n in given.tokens]}
    keep(given.out, TITLE, run, render)


if __name__ == "__main__":
    main()
