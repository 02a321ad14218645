"""Baseline: LoRAHub, one weight per frozen adapter, found on the target's training examples."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import Field
from tqdm import tqdm

from grasp_lora.lm.adapters import load_adapter
from grasp_lora.lm.encoding import Limits
from grasp_lora.merging.lorahub import (
    merge_weighted,
    optimiser,
    place_factors,
    search_weights,
    weigh_adapters,
)
from grasp_lora.merging.reading import read_adapters
from grasp_lora.settings import Count, NotNegative, Settings
from grasp_lora.tasks.example import Example
from grasp_lora.workspace.about import named
from grasp_lora.workspace.files import write_lines
from grasp_lora.workspace.inputs import Model
from grasp_lora.workspace.records import Weights
from grasp_lora.workspace.resources import Resources
from grasp_lora.workspace.stage import Work

__all__ = ["LORAHUB", "LoraHub"]


class LoraHub(Settings):
    """The search for one weight per adapter (Huang et al., 2024)."""

    budget: Count = 40
    """Evaluations of the objective."""
    bound: Annotated[float, Field(gt=0.0)] = 1.5
    """Weights lie between minus this and this."""
    penalty: NotNegative = 0.05
    """Of the mean absolute weight, added to the loss."""
    exact: bool = False
    """Take sum w B A instead of LoRAHub's (sum w B)(sum w A)."""
    adapters: Mapping[str, Path] = {}
    """Further adapters to choose from, by name, beside source and target."""


def lorahub(
    resources: Resources,
    folder: Path,
    *,
    model: Model,
    adapters: Mapping[str, Path],
    train: Sequence[Example],
    limits: Limits,
    budget: int,
    bound: float,
    penalty: float,
    exact: bool,
) -> None:
    """Search for one weight per adapter (Huang et al., 2024).

    The loss is that of the target's training examples, as LoRAHub's is of its few examples; dev and micro-dev
    are not touched. Leaves a PEFT adapter, `Weights`, and one line per evaluation.

    Raises:
        GraspError: The adapters do not fit together; the message names the one that does not.
    """
    loaded = read_adapters(adapters)
    with TemporaryDirectory() as temporary:
        start = Path(temporary) / "start"  # ranks and scalings for PEFT to load; the search fills it
        merge_weighted(adapters, dict.fromkeys(adapters, 0.0), start, exact=exact)
        backbone = resources.backbone(model)
        adapted = load_adapter(backbone.model, start, trainable=False)
    loss = resources.loss(train, backbone, limits)

    def loss_of(weights: Mapping[str, float]) -> float:
        place_factors(adapted, weigh_adapters(loaded, weights, exact=exact)[0])
        value = loss(adapted)
        bar.set_postfix(loss=f"{value:.3f}")
        bar.update()
        return value

    with tqdm(total=budget, desc="weights", unit="evaluation") as bar:
        found = search_weights(loss_of, list(adapters), budget=budget, bound=bound, penalty=penalty)
    merge_weighted(adapters, found.best.weights, folder, exact=exact)
    Weights(**asdict(found.best), evaluations=len(found.history), optimiser=optimiser()).write(folder)
    lines = ({"evaluation": i, **asdict(one)} for i, one in enumerate(found.history, 1))
    write_lines(folder / Weights.SEARCH_FILE, lines)


def _passes(*, train: Sequence[Example], budget: int, **_: Any) -> int:
    return budget * len(train)


def _about(folder: Path, *, adapters: Mapping[str, Any], **_: Any) -> str:
    found = Weights.read(folder)
    weights = ", ".join(f"{name} {weight:.3f}" for name, weight in found.weights.items())
    return f"LoRAHub's weights ({weights}; {found.evaluations} evaluations) for {named(adapters)}."


LORAHUB = Work(lorahub, passes=_passes, about=_about)
