"""The same adapter from other rows of the target: another draw of the training rows, or all labelled ones."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.methods.method import Adapter
from grasp_lora.methods.start import Start
from grasp_lora.stages.choose import CHOOSE
from grasp_lora.stages.prune import PRUNE
from grasp_lora.stages.train import TRAIN
from grasp_lora.workspace.inputs import Rows
from grasp_lora.workspace.stage import Stage, inside, mapped
from grasp_lora.workspace.training import EveryStep

__all__ = ["moved", "refitted"]

_ADAPTERS = ("start", "adapter", "adapters", "parts")  # under which stages are given what they go on from


def moved(made: Adapter, folder: str) -> Adapter:
    """The same stages, those below `folder` that other rows than the experiment's splits lie behind."""
    if not isinstance(made, Stage):
        return made
    given = _with_stages(made.given, lambda stage: moved(stage, folder))
    sampled = any(isinstance(value, Rows) and value.is_sample for value in inside(made.given))
    if sampled or _names(given) != _names(made.given):
        return replace(made, name=f"{folder}/{made.name}", given=given)
    return made


def refitted(x: Start, made: Adapter) -> Adapter:
    """What makes the same adapter from all labelled rows, the target's own adapter included: at the ratio and
    rate and for as many epochs as were chosen, and nothing is looked at. Unchanged where no such row is
    behind it.
    """
    if not isinstance(made, Stage):
        return made
    if made.work is CHOOSE:
        return _refit(x, _at_the_chosen(made), like=made)
    return _refit(x, made, like=made)


def _refit(x: Start, made: Stage, like: Stage) -> Stage:
    again = {key: made.given[key] for key in _ADAPTERS if key in made.given}
    own_start = {key: value for key, value in made.given.items() if key != "goes_on"}
    given = {**own_start, **_with_stages(again, lambda stage: refitted(x, stage))}
    own = made.given.get("train")
    if isinstance(own, Rows) and (own.task, own.language) == (x.task, x.config.target.language):
        given["train"] = replace(own, also=x.other_labelled)
        mask = given.get("mask")
        if isinstance(mask, EveryStep):  # there are no dev rows to take X from
            given["mask"] = replace(mask, how=mask.how.model_copy(update={"rescore": "train_batch"}))
        if made.work is TRAIN and made.given["training"].max_steps is not None:
            raise GraspError(
                f"final.refit repeats epochs, and max_steps of {made.name} counts steps: set epochs"
            )
        if made.work is TRAIN:
            given |= {"dev": None, "like": None if made.given["training"].average else like}
    elif _names(given) == _names(made.given):
        return made
    if made.work is PRUNE:
        given["dev"] = None
    return Stage(f"refit/{like.name}", made.work, given)


def _at_the_chosen(choice: Stage) -> Stage:
    """One of the points of a choice, at whatever is chosen."""
    point: Stage = next(iter(choice.given["points"].values()))
    if point.work is CHOOSE:
        point = _at_the_chosen(point)
    given = dict(point.given)
    if choice.given.get("of") == "learning_rate":
        return point
    if point.work is PRUNE:
        given["ratio"] = choice
    elif isinstance(given["mask"], EveryStep):
        given["mask"] = replace(given["mask"], at=choice)
    else:
        given["mask"] = replace(given["mask"], ratio=choice)
    return replace(point, given=given)


def _with_stages(given: Any, change: Callable[[Stage], Any]) -> Any:
    def changed(one: Any) -> Any:
        if isinstance(one, Stage):
            return change(one)
        if not one.stages:
            return one
        held = {part.name: getattr(one, part.name) for part in fields(one)}
        return replace(one, **{name: mapped(value, changed) for name, value in held.items()})

    return mapped(given, changed)


def _names(given: Any) -> list[str]:
    return [value.name for value in inside(given) if isinstance(value, Stage)]
