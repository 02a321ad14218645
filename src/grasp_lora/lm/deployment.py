"""What a model costs to deploy: size, loading, speed, memory; the adapter beside the base or merged into it.

The papers report none of it. Both forms give the same answers up to rounding, at different speeds.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from grasp_lora.cost import Cost, measure
from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.backbone import Backbone
from grasp_lora.lm.encoding import Limits, encode_prompt
from grasp_lora.lm.generation import generate_ids
from grasp_lora.lm.loss import evaluation_mode
from grasp_lora.lm.measured import AdapterSize, Deployment, Variant
from grasp_lora.lm.quantization import quantization_of
from grasp_lora.merging.reading import WEIGHTS_FILE
from grasp_lora.tasks.example import Example

__all__ = ["adapter_size", "measure_deployment"]


def measure_deployment(
    load: Callable[[], Backbone],
    adapter: Path | None,
    examples: Sequence[Example],
    limits: Limits,
    *,
    warmup: int = 1,
    repeats: int = 3,
) -> Deployment:
    """Load and run the model with the adapter beside the base, then merged into it (PEFT's merge_and_unload).
    Into a quantized base it is not merged, as that would round the adapter away: it stays beside.

    One prompt at a time, greedy, and with end-of-text suppressed, so that every method decodes
    `limits.max_new_tokens`. The forms share nothing: each load starts from a new backbone, once the one
    before is gone; a first load of all is not timed, as it fills the disk cache and imports modules.

    Args:
        load: Gives a new backbone; called once, and `repeats` times for each form.
        warmup: Answers to the first example that are not timed, for each form.
        repeats: Loads of each form, and answers to each example.

    Raises:
        GraspError: No examples, or no adapter in the folder.
    """
    if not examples:
        raise GraspError("deployment is measured while answering test examples, and there are none")
    first, _ = _load(load, adapter, merge=False)
    new = limits.answer
    form = limits.prompt_format
    prompts = [encode_prompt(e, first.tokenizer, limits.max_length - new, form) for e in examples]
    weight = next(first.model.parameters())
    device, dtype = weight.device.type, str(weight.dtype).removeprefix("torch.")
    quantized = quantization_of(first.model)
    del first, weight

    run = partial(_variant, load, adapter, prompts, limits, warmup, repeats)
    unmerged, answers = run(merge=False)
    merged, same = None, None
    if adapter is not None and quantized is None:
        merged, others = run(merge=True)
        same = sum(a == b for a, b in zip(answers, others, strict=True)) / len(answers)
    return Deployment(
        adapter=None if adapter is None else adapter_size(adapter),
        unmerged=unmerged,
        merged=merged,
        same_answers=same,
        examples=len(examples),
        prompt_tokens=median(map(len, prompts)),
        new_tokens=new,
        repeats=repeats,
        device=device,
        dtype=dtype if quantized is None else f"{dtype}, {quantized}",
    )


def adapter_size(folder: Path) -> AdapterSize:
    """The size of a PEFT folder's `adapter_model.safetensors`; its config of a few hundred bytes aside."""
    file = folder / WEIGHTS_FILE
    entries = nonzero = nonzero_bytes = 0
    with safe_open(file, framework="pt") as tensors:
        for name in list(tensors.keys()):
            tensor = tensors.get_tensor(name)
            count = int(tensor.count_nonzero())
            entries += tensor.numel()
            nonzero += count
            nonzero_bytes += count * tensor.element_size()
    return AdapterSize(file.stat().st_size, entries, nonzero / entries, nonzero_bytes)


class _Loading(NamedTuple):
    backbone: float
    adapter: float
    merge: float
    peak: int


def _variant(
    load: Callable[[], Backbone],
    adapter: Path | None,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    warmup: int,
    repeats: int,
    *,
    merge: bool,
) -> tuple[Variant, list[list[int]]]:
    """One form's figures, and its answer's tokens to each prompt."""
    new = limits.answer
    loads = [_load(load, adapter, merge=merge)[1] for _ in range(repeats - 1)]
    loaded, last = _load(load, adapter, merge=merge)
    loads.append(last)
    answers: list[list[int]] = []
    firsts: list[float] = []
    rates: list[float] = []
    with measure() as cost, evaluation_mode(loaded.model):
        for _ in range(warmup):
            _answer(loaded, prompts[0], limits)
        for prompt in prompts:
            for _ in range(repeats):
                answer, first, rest = _answer(loaded, prompt, limits)
                firsts.append(first)
                if new > 1:
                    rates.append((new - 1) / rest)
            answers.append(answer)
    variant = Variant(
        backbone_load_seconds=median(load.backbone for load in loads),
        adapter_load_seconds=median(load.adapter for load in loads),
        merge_seconds=median(load.merge for load in loads),
        load_peak_bytes=round(median(load.peak for load in loads)),
        first_token_seconds=median(firsts),
        tokens_per_second=median(rates) if rates else None,
        peak_bytes=_peak(cost, loaded.model),
    )
    return variant, answers


def _load(load: Callable[[], Backbone], adapter: Path | None, *, merge: bool) -> tuple[Backbone, _Loading]:
    with measure() as cost:  # which frees the model before: a PEFT model is full of cycles
        started = time.perf_counter()
        backbone = load()
        ready = _now(backbone.model)
        model: Any = backbone.model
        if adapter is not None:
            model = load_adapter(model, adapter, trainable=False)
        adapted = _now(model)
        if adapter is not None and merge:
            model = model.merge_and_unload()
        merged = _now(model)
    times = (ready - started, adapted - ready if adapter else 0.0, merged - adapted if merge else 0.0)
    return Backbone(model, backbone.tokenizer, backbone.path), _Loading(*times, peak=_peak(cost, model))


def _now(model: Any) -> float:
    """The clock, once the model's device has done all that it was given."""
    torch.get_device_module(next(model.parameters()).device).synchronize()
    return time.perf_counter()


def _peak(cost: Cost, model: Any) -> int:
    on_gpu = next(model.parameters()).device.type == "cuda"
    return cost.peak_gpu_memory_bytes if on_gpu else cost.peak_memory_bytes


class _Clock:
    """A transformers streamer: it is given the prompt, then each token once that has reached the CPU."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, tokens: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def _answer(backbone: Backbone, prompt: Sequence[int], limits: Limits) -> tuple[list[int], float, float]:
    """The answer's tokens, the seconds to its first one, and those of the rest."""
    clock = _Clock()
    started = _now(backbone.model)
    ids = generate_ids(
        backbone.model,
        backbone.tokenizer,
        [prompt],
        limits.answer,
        min_new_tokens=limits.answer,
        streamer=clock,
        prompt_format=limits.prompt_format,
    )
    _, first, *_ = clock.times  # the prompt comes before
    return ids[0].tolist(), first - started, clock.times[-1] - first
