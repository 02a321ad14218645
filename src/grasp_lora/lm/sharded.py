"""A backbone that FSDP2 shards over processes, with an adapter that each of them has whole."""

from collections.abc import Iterable

from torch import Tensor, nn

from grasp_lora.errors import GraspError
from grasp_lora.ranks import summed, world

__all__ = ["average_gradients", "is_sharded"]


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass needs all processes at once."""
    if world() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule  # takes a second

    return any(isinstance(module, FSDPModule) for module in model.modules())


def average_gradients(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """See to it that a sharded backbone's adapter has the mean of all processes' gradients.

    FSDP leaves alone what it is told to ignore, gradients included. A backbone that is not sharded is left to
    DDP, or to whoever averages there.

    Raises:
        GraspError: The adapter itself is sharded.
    """
    if world() == 1:
        return
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    parameters = list(parameters)
    old = any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    if old or any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in parameters):  # DeepSpeed's
        raise GraspError(
            "the adapter is sharded, and masks compare all of a unit's entries: use FSDP2 (fsdp_version: 2), "
            r"and have it ignore the adapter: FSDP_IGNORED_MODULES='.*\.lora_(embedding_)?[AB].*'"
        )
    if is_sharded(model):
        for parameter in parameters:
            if not hasattr(parameter, "averaged_by_grasp"):  # in an earlier training
                parameter.averaged_by_grasp = parameter.register_hook(_mean)  # type: ignore[attr-defined,no-untyped-call]


def _mean(gradient: Tensor) -> Tensor:
    return summed(gradient.clone()) / world()
