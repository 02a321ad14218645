"""What the benchmarks share: the machine's own limits, operations counted, clocks, and where results go."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grasp_lora.workspace.environment import environment

RESULTS = Path(__file__).parent / "results"


def positive(text: str) -> int:
    """A number of an argument, from 1 up."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def wait() -> None:
    """Until the GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], repeats: int, warmup: int = 1) -> list[float]:
    """Wall time of each call, after some that do not count."""
    times = []
    for _ in range(warmup + repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return times[warmup:]


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a product of two large square matrices: the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: one @ other, 5))


def bandwidth(device: torch.device) -> float:
    """Bytes a second of copying 1 GiB, those read and those written."""
    source = torch.empty(2**28, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), 5))


def limits(device: torch.device) -> dict[str, float]:
    """What this machine can do now."""
    return {
        "float32_per_s": matrix_rate(torch.float32, device),
        "bfloat16_per_s": matrix_rate(torch.bfloat16, device),
        "bytes_per_s": bandwidth(device),
    }


def operations(model: nn.Module, tokens: int, predicted: int) -> dict[str, float]:
    """Multiplications and additions of one row: in a forward pass, and in a step on a frozen backbone.

    Every linear layer takes 2 for each weight and token, the output embedding only where it predicts; causal
    attention 2 for each of head dimension, query and the half of all keys, twice. Backwards a frozen layer
    has a gradient for its inputs and none for its weights: as much again; attention has twice as much again.
    What checkpointing computes a second time does not count.
    """
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    head = config.hidden_size * config.vocab_size
    layers = sum(
        m.in_features * m.out_features  # of a quantized layer, whose weight is packed, too
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and "lora_" not in name and not name.endswith("lm_head")
    )
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    linear = 2.0 * (layers * tokens + head * predicted)
    attention = 2.0 * config.num_hidden_layers * width * tokens**2
    return {"forward": linear + attention, "step": 2 * linear + 3 * attention}


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """The median, with the least and the most."""
    low, middle, high = (scale * f(values) for f in (min, statistics.median, max))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def keep(name: str, title: str, run: dict[str, Any], render: Callable[[dict[str, Any]], str]) -> None:
    """Add a run to `results/NAME.json`, and write all runs there as a page beside it."""
    path = RESULTS / f"{name}.json"
    runs = json.loads(path.read_text()) if path.exists() else []
    runs.append({"date": date.today().isoformat(), **run, "environment": environment()})
    page = [f"# {title}\n"]
    for one in runs:
        on = one["environment"]
        where = ", ".join(on["gpus"]) or f"{on['processor']}, {on['threads']} threads of {on['cores']} cores"
        page.append(
            f"## {one['date']}: {where}\n\ntorch {on['torch']}, transformers {on['transformers']}, "
            f"peft {on['peft']}\n\n{render(one)}\n"
        )
    path.parent.mkdir(exist_ok=True)  # all of them could be shown: only now are they written
    path.write_text(json.dumps(runs, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(page))
    print(render(runs[-1]))
