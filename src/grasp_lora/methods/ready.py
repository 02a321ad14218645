"""What would stop a run after hours of training is said before it."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from grasp_lora.errors import GraspError
from grasp_lora.lm.backbone import check_loading
from grasp_lora.lm.chat import before_answers, check_chat
from grasp_lora.lm.footprint import tokenizer_of
from grasp_lora.lm.optimizers import check_installed
from grasp_lora.lm.packaged.backbones import check_backbone
from grasp_lora.lm.passes import check_compiler
from grasp_lora.lm.reporting import check_reporters
from grasp_lora.lm.training import Training
from grasp_lora.merging.reading import CONFIG_FILE, read_adapters, same_base_model
from grasp_lora.methods.given import found
from grasp_lora.methods.start import Start
from grasp_lora.tasks.example import Example
from grasp_lora.tasks.lazy import mapped
from grasp_lora.tasks.task import check_disjoint
from grasp_lora.workspace.directory import RunDirectory
from grasp_lora.workspace.inputs import Model, Rows
from grasp_lora.workspace.stage import Input, Stage, inside, resolve
from grasp_lora.workspace.training import EveryStep

__all__ = ["check_adapters", "check_base", "check_ready"]

logger = logging.getLogger(__name__)

_HOW = ("device", "quantization", "attention", "device_map")


def check_ready(x: Start, stages: Sequence[Stage], run: RunDirectory) -> None:
    """Look at the given adapters, the rows, and what each stage's work needs.

    Raises:
        GraspError: An adapter is missing or of another model, splits overlap or are too small, a learning run
            is shorter than a round, the tokenizer has no chat template, a packaged backbone is unknown, or
            something is not installed.
    """
    _check_compiled(stages)
    check_backbone(x.config.backbone)
    check_loading(**{key: x.config.loading[key] for key in _HOW})
    check_adapters(x)
    _check_format(x)
    _check_rows(x, stages, run)
    check_reporters(x.config.report_to)
    trainings = [value for stage in stages for value in inside(stage.given) if isinstance(value, Training)]
    for optimizer in sorted({training.optimizer for training in trainings}):
        check_installed(optimizer)
    for stage in stages:
        try:
            known = {k: v for k, v in stage.given.items() if not (isinstance(v, Input) and v.stages)}
            stage.work.ready(run.resources, **resolve(known, run))
        except GraspError as error:
            raise GraspError(f"{stage.name}: {error}") from None


def _check_compiled(stages: Sequence[Stage]) -> None:
    for stage in stages:
        if not any(one.torch_compile for one in inside(stage.given) if isinstance(one, Training)):
            continue
        check_compiler()
        mask = stage.given.get("mask")
        if isinstance(mask, EveryStep) and mask.how.importance == "input":
            raise GraspError(
                f"{stage.name}: merge_prune.importance: input looks at what goes into modules, which "
                "compiled layers do not show: set torch_compile: false, or importance: gradient"
            )


def check_adapters(x: Start) -> None:
    """Look at every adapter that the config names, before anything is trained.

    Raises:
        GraspError: One is missing, cannot be merged, or was trained on another model than the config's.
    """
    config = x.config
    sides = (*config.sources, config.target)
    given = {f"{x.key(side)}.adapter": side.adapter for side in sides if side.adapter not in (None, "none")}
    given |= {f"lorahub.adapters.{name}": adapter for name, adapter in config.lorahub.adapters.items()}
    folders = {key: found(key, str(adapter)) for key, adapter in given.items()}
    for read in read_adapters(folders) if folders else ():
        check_base(f"{read.name}: {folders[read.name]}", read.config.base_model_name_or_path, x.model)


def check_base(adapter: str, base: str | None, model: Model) -> None:
    """An adapter must be of the backbone.

    Raises:
        GraspError: It was trained on another one.
    """
    if base and not _is_backbone(base, model):
        raise GraspError(
            f"{adapter} was trained on {base!r}, and backbone is {model.name!r}. If they are the same model, "
            f"write its name into the adapter's {CONFIG_FILE} (base_model_name_or_path)"
        )


def _is_backbone(base: str, model: Model) -> bool:
    return same_base_model(base, model.name) or same_base_model(base, model.path)


def _check_format(x: Start) -> None:
    """A tokenizer that is not on this machine yet is looked at by the first stage."""
    tokenizer = tokenizer_of(x.model.name, x.model.revision) if x.limits.prompt_format == "chat" else None
    if tokenizer is None:
        return
    check_chat(tokenizer)
    if opening := before_answers(tokenizer):
        logger.warning(
            "the chat template writes %r before an answer, beside its generation prompt: append it to "
            "prompts where the adapter is used without grasp",
            opening,
        )


def _check_rows(x: Start, stages: Sequence[Stage], run: RunDirectory) -> None:
    """Nothing that is trained on is held out anywhere, in any language, and the held-out splits are apart."""
    given = _all_rows(stages)
    target = x.config.target.language
    held_out = {
        rows.split: run.resources.examples(rows)
        for rows in given
        if rows.language == target and rows.task == x.task and rows.split not in TRAINED_ON
    }
    for rows in given:
        if rows.split not in TRAINED_ON:
            continue
        own = rows.language == target and rows.task == x.task
        name = f"{'target' if own else f'source {rows.language}'} {rows.split}"
        trained_on = run.resources.examples(rows)
        if rows.task != x.task:  # whose ids mean something else: there texts alone are compared
            trained_on = mapped(trained_on, partial(_named_after, rows.task.name))
        check_disjoint({name: trained_on, **held_out})


def _named_after(task: str, example: Example) -> Example:
    return replace(example, id=f"{task}: {example.id}")


TRAINED_ON = ("train", "pool")


def _all_rows(stages: Iterable[Stage]) -> list[Rows]:
    """Every split that a stage is given, whole, and the pool that training rows may come from."""
    whole: list[Rows] = []
    given = (value for stage in stages for value in inside(stage.given) if isinstance(value, Rows))
    for value in (one for several in given for one in several.each):
        more = value.limit is not None or value.draw > 0
        pool = more and value.split == "train" and "pool" in value.splits
        for split in (value.split, *(["pool"] if pool else [])):
            rows = Rows(value.task, value.language, split)
            if rows not in whole:
                whole.append(rows)
    return whole
