"""GRASP LoRA: learn how much of a merged LoRA adapter to prune.

The public names are imported on first use, so that `import grasp_lora` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from grasp_lora.version import __version__ as __version__

if TYPE_CHECKING:
    from grasp_lora.control.callback import GraspCallback as GraspCallback
    from grasp_lora.control.controller import GraspController as GraspController
    from grasp_lora.control.curve import RatioCurve as RatioCurve
    from grasp_lora.control.curve_callback import RatioCurveCallback as RatioCurveCallback
    from grasp_lora.control.fixed_mask import FixedMaskCallback as FixedMaskCallback
    from grasp_lora.control.halving import HalvingResult as HalvingResult
    from grasp_lora.control.halving_search import HalvingSearch as HalvingSearch
    from grasp_lora.control.measured import MeasuredCurve as MeasuredCurve
    from grasp_lora.control.policy import RatioPolicy as RatioPolicy
    from grasp_lora.control.selection import GraspResult as GraspResult
    from grasp_lora.errors import GraspError as GraspError
    from grasp_lora.experiment import Result as Result
    from grasp_lora.experiment import run as run
    from grasp_lora.lm.backbone import load_backbone as load_backbone
    from grasp_lora.lm.loss import TargetLoss as TargetLoss
    from grasp_lora.merging import merge_adapters as merge_adapters
    from grasp_lora.merging import read_parts as read_parts
    from grasp_lora.tasks.example import Example as Example

_HOMES = {
    "Example": "tasks.example",
    "FixedMaskCallback": "control.fixed_mask",
    "GraspCallback": "control.callback",
    "GraspController": "control.controller",
    "GraspError": "errors",
    "GraspResult": "control.selection",
    "HalvingResult": "control.halving",
    "HalvingSearch": "control.halving_search",
    "MeasuredCurve": "control.measured",
    "RatioCurve": "control.curve",
    "RatioCurveCallback": "control.curve_callback",
    "RatioPolicy": "control.policy",
    "Result": "experiment",
    "TargetLoss": "lm.loss",
    "load_backbone": "lm.backbone",
    "merge_adapters": "merging",
    "read_parts": "merging",
    "run": "experiment",
}

__all__ = [
    "__version__",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"grasp_lora.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'grasp_lora' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
