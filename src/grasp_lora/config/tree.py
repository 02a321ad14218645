"""One frozen tree of settings, with defaults from the papers.

Unknown keys are errors. Most groups are declared beside the code that they set. Only methods read the tree:
everything below takes plain arguments. It is read from YAML by `config.loading`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from grasp_lora.config.checks import check_names, check_ratios
from grasp_lora.config.parts import CrossValidate, Final, Part, Source, Sweep, Target, Tune
from grasp_lora.control.settings import Control, Curve, MergePrune
from grasp_lora.executors.settings import Executor
from grasp_lora.lm.adapters import Lora
from grasp_lora.lm.backbone import Attention, DeviceMap, DType
from grasp_lora.lm.chat import PromptFormat
from grasp_lora.lm.encoding import Limits
from grasp_lora.lm.quantization import Quantization
from grasp_lora.lm.reporting import ReportTo
from grasp_lora.lm.training import Training
from grasp_lora.metrics.scoring import METRICS
from grasp_lora.ratios import Ratios
from grasp_lora.settings import Count, FolderName, Seed, Settings
from grasp_lora.stages.combine import Combine
from grasp_lora.stages.evaluate import Evaluation
from grasp_lora.stages.lorahub import LoraHub
from grasp_lora.stages.optuna import Optuna
from grasp_lora.tasks.task import Task
from grasp_lora.workspace.halved import HalvingSettings

__all__ = ["Config", "MethodNames"]

_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class MethodNames:
    """The methods that a config may name: they are above it, so they come as the context of its validation.

    Attributes:
        known: Every one.
        all: What `methods: all` stands for.
        default: Those of a config that names none.
    """

    known: tuple[str, ...]
    all: tuple[str, ...]
    default: tuple[str, ...]


def _kind_of_source(value: Any) -> str:
    return "source[several]" if isinstance(value, list | tuple) else "source[one]"


class Config(Settings):
    """A run: one backbone, one task, one pair of languages.

    `training` is the default of every training stage; `source.training`, `target.training`,
    `learn.training` and `final.training` need only what differs. `source` may be a list: the adapters of all
    are merged with the target's.
    """

    name: FolderName
    """Of the run, and of its folder."""
    runs: Path = Path("runs")
    """The folder that run folders are made in."""
    backbone: str
    """The model: a hub name, a folder, or packaged:gemma-3-270m."""
    revision: str | None = None
    """Of a backbone from the hub: a branch, tag or commit; null: its main branch."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the backbone may run: only where you have read it."""
    dtype: DType = "auto"
    """Of the backbone's weights; auto: bfloat16 on a GPU, float32 on a CPU."""
    device: str = "auto"
    """Such as cpu, cuda or cuda:1; auto: a GPU where there is one."""
    quantization: Quantization | None = None
    """Of the backbone's linear layers, through bitsandbytes: 4 or 8 bits a weight; null: dtype's."""
    attention: Attention | None = None
    """What transformers calls attn_implementation; null: what it chooses for the backbone."""
    device_map: DeviceMap | None = None
    """In the place of device, what is on which GPU: a name of Accelerate's, or places by module."""
    task: Task | str
    """Rows and prompts: a name of `grasp data list`, a prepared folder, a task.yaml, or its keys here."""
    prompt_format: PromptFormat = "plain"
    """chat: prompt and answer as turns of the backbone's chat template; plain: one after the other."""
    source: Annotated[
        Annotated[Source, Tag("source[one]")]
        | Annotated[tuple[Source, ...], Tag("source[several]"), Field(min_length=1)],
        Discriminator(_kind_of_source),
    ]
    """The side with plenty of data, or a list of several; all their adapters are merged with the target's."""
    target: Target
    """The side with few rows."""
    lora: Lora = Lora()
    """Shape of the adapters that are trained."""
    merge: Literal["sum", "linear"] = "sum"
    """How adapters are merged: the sum of B A, or (sum B)(sum A), as GRASP's published code does."""
    training: Training = Training()
    """Of every training stage that does not say otherwise."""
    learn: Part = Part()
    """The learning run, in which the controller finds the ratio."""
    final: Final = Final()
    """The fine-tuning at the ratio that was found, and every other training of the merge."""
    control: Control = Control()
    """The controller."""
    variants: Mapping[FolderName, Control] = {}
    """More GRASP runs by name: what differs from `control`."""
    curve: Curve = Curve()
    """The method curve."""
    methods: Annotated[tuple[str, ...], Field(min_length=1, validate_default=True)] = ()
    """Names, or all; none named: lora_target, sequential, merge, prune_after and grasp."""
    combine: Combine = Combine()
    """The methods ties, dare_ties and their like."""
    merge_prune: MergePrune = MergePrune()
    """The method merge_prune, and final.pruning: every_step."""
    lorahub: LoraHub = LoraHub()
    """The method lorahub."""
    optuna: Optuna = Optuna()
    """The method optuna."""
    halving: HalvingSettings = HalvingSettings()
    """The method halving."""
    sweep: Sweep = Sweep()
    """The method sweep."""
    ratios: Literal["one", "per_adapter"] = "one"
    """What grasp, random and optuna look for: one for all entries, or one for each adapter of the merge. Then
    p_min and p_max are 0 and 1 by default, and two adapters' grid {0, 0.5, 1} of each without [1, 1]."""
    grid: Ratios = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """Of grid, merge_prune, prune_after (that and 0), rank_check and cross_validate; [0, 1] is one for each
    adapter."""
    select_by: str = "loss"
    """What of dev chooses among a grid's ratios: loss, a metric, or task: its first metric."""
    cross_validate: CrossValidate = CrossValidate()
    """The method cross_validate; a number alone is how many folds."""
    tune: Tune = Tune()
    """A search on dev, for every training on the target's rows."""
    evaluation: Evaluation = Evaluation(generate=4)
    """What is measured on test."""
    max_length: Count = _LIMITS.max_length
    """Most tokens of prompt and answer together."""
    max_new_tokens: Count | None = None
    """Most tokens of an answer, end-of-text included; null: the task's own."""
    token_budget: Count = _LIMITS.token_budget
    """Most tokens of one evaluation batch, padding included; less needs less memory."""
    checkpoint_every: Count | None = 50
    """Optimizer steps after which a training can be resumed, beside each epoch and round; null: never."""
    report_to: ReportTo = None
    """Where trainings' numbers go, by the Trainer's names: one, several, or none; null: TensorBoard, where
    it is installed. It changes no result."""
    executor: Executor = Executor()
    """Where stages are made, and how many at a time; with as many threads for each, nothing else changes."""
    seed: Seed = 42
    """Of the adapters, the learning run and the policy."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (42,)
    """With each of these, what `repeat` names is trained."""
    repeat: Literal["final", "adapters"] = "final"
    """What is trained with each of the seeds: the final runs at one found ratio, or the adapters, too."""

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        """Fill each stage's `training` from the top-level one, and each variant from `control`."""
        if not isinstance(data, Mapping) or not isinstance(data.get("training", {}), Mapping):
            return data
        data = dict(data)
        for key in ("source", "target", "learn", "final"):
            part = data.get(key, {})
            several = isinstance(part, list | tuple)
            inherited = [
                _with_training(one, data.get("training", {})) for one in (part if several else [part])
            ]
            data[key] = inherited if several else inherited[0]
        if data.get("ratios") == "per_adapter":
            data = _per_adapter(data)
        control = data.get("control", {})
        if isinstance(data.get("variants"), Mapping) and isinstance(control, Mapping):
            data["variants"] = {
                name: {**control, **part} if isinstance(part, Mapping) else part
                for name, part in data["variants"].items()
            }
        return data

    @field_validator("methods", mode="before")
    @classmethod
    def _known_methods(cls, value: Any, info: ValidationInfo) -> Any:
        names: MethodNames | None = info.context
        if names is None:
            return value
        if value == ():
            return names.default
        if value == "all":
            return names.all
        if not isinstance(value, list | tuple):
            raise ValueError("methods is 'all' or a list of names, such as [merge, grasp]")
        if unknown := [name for name in value if name not in names.known]:
            raise ValueError(
                f"no method is called {unknown[0]!r}; there are {', '.join(sorted(names.known))}"
            )
        return value

    @field_validator("select_by")
    @classmethod
    def _known_choice(cls, name: str) -> str:
        if name not in (known := ("loss", "task", *METRICS)):
            raise ValueError(f"it is one of {', '.join(known)}")
        return name

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> "Config":
        check_names(self, () if info.context is None else info.context.known)
        check_ratios(self)
        return self

    @property
    def sources(self) -> tuple[Source, ...]:
        """All of them."""
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def loading(self) -> dict[str, Any]:
        """The backbone, and how it is loaded, as `load_backbone` takes it."""
        keys = ("revision", "dtype", "device", "trust_remote_code", "quantization", "attention", "device_map")
        return {"name": self.backbone, **{key: getattr(self, key) for key in keys}}

    @property
    def adapters(self) -> int:
        """How many are merged."""
        return len(self.sources) + (self.target.adapter != "none")

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.runs / self.name

    def dump(self) -> str:
        """The resolved tree as YAML; reading it back gives the same config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _per_adapter(data: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults of a ratio for each adapter, where nothing else is said."""
    found = dict(data)
    for key in ("control", "optuna"):
        if isinstance(given := data.get(key, {}), Mapping):
            found[key] = {"p_min": 0.0, "p_max": 1.0, **given}
    source, target = data.get("source"), data.get("target")
    alone = isinstance(target, Mapping) and target.get("adapter") == "none"
    adapters = (len(source) if isinstance(source, list | tuple) else 1) + (not alone)
    corners = [list(p) for p in product((0.0, 0.5, 1.0), repeat=2) if p != (1.0, 1.0)]
    return {"grid": corners if adapters == 2 else [], **found}


def _with_training(part: Any, training: Mapping[str, Any]) -> Any:
    """The part with what its own training does not name."""
    if not isinstance(part, Mapping) or not isinstance(part.get("training", {}), Mapping):
        return part
    return {**part, "training": {**training, **part.get("training", {})}}
