"""Adapters combined without further training: PEFT's ways, and LoRAHub's search."""

from grasp_lora.errors import GraspError
from grasp_lora.merging import PEFT_METHODS
from grasp_lora.merging.combinations import check_peft
from grasp_lora.methods.given import given_adapter
from grasp_lora.methods.method import Method
from grasp_lora.methods.start import Start
from grasp_lora.stages.combine import COMBINE
from grasp_lora.stages.lorahub import LORAHUB
from grasp_lora.workspace.stage import Stage

__all__ = ["COMBINATIONS"]


def _combined(name: str, in_all: bool = True) -> Method:
    def adapter(x: Start, seed: int) -> Stage:
        how = x.config.combine.of(name)
        check_peft(name, how["weights"])
        given = {"adapters": x.adapters, "method": name, "seed": x.config.seed, "how": how}
        return Stage(f"combined/{name}{x.suffix}", COMBINE, given)

    return Method(name, name, adapter, seeded=False, in_all=in_all)


def _lorahub(x: Start, seed: int) -> Stage:
    settings, adapters = x.config.lorahub, x.adapters
    for name, folder in settings.adapters.items():
        if name in adapters:
            raise GraspError(f"lorahub.adapters.{name}: {name!r} is the run's own adapter; use another name")
        adapters[name] = given_adapter(f"lorahub.adapters.{name}", folder)
    given = {
        "model": x.model,
        "adapters": adapters,
        "train": x.rows(x.config.target, "train"),
        "limits": x.limits,
        **settings.model_dump(exclude={"adapters"}),
    }
    return Stage(f"combined/lorahub{x.suffix}", LORAHUB, given)


_FACTORS = ("ties", "dare_ties", "dare_linear", "magnitude_prune", "linear", "svd")
COMBINATIONS = (
    *(_combined(name) for name in _FACTORS),
    *(_combined(name, in_all=False) for name in PEFT_METHODS if name not in _FACTORS),
    Method("lorahub", "LoRAHub", _lorahub, seeded=False),
)
