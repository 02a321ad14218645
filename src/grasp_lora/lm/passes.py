"""How passes are made: layers computed twice for less memory; compiled, and logits at once, for less time."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from grasp_lora.errors import GraspError

__all__ = ["PlainAgain", "check_compiler", "compiled_layers", "computed_twice", "logits_in_one_product"]

# Its name, and until some version after transformers 5.10 another one.
_NAME = "activation_checkpointing"
if not hasattr(TrainingArguments, _NAME):
    _NAME = "gradient_checkpointing"


def computed_twice() -> dict[str, Any]:
    """`TrainingArguments` for layers of which the input alone is kept for the backward pass.

    Non-reentrant: the layers' own random states come back with the second pass, so that losses are the same.
    """
    return {_NAME: True, f"{_NAME}_kwargs": {"use_reentrant": False}}


class PlainAgain(TrainerCallback):
    """Leaves the model as it was before layers were computed twice, also its embeddings."""

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        getattr(model, f"{_NAME}_disable")()
        model.disable_input_require_grads()


LIMIT = 64
"""How often one code is compiled: with and without gradients, with an attention mask, for other lengths, for
another rank. Several trainings soon use up the usual 8, and what comes after would not be compiled."""


@contextmanager
def compiled_layers(model: nn.Module) -> Iterator[None]:
    """Compiles each layer in the block: for a training's own passes, dev losses and probes alike.

    Layers are one code, so that what is compiled for one of them serves all: seconds, where a whole model
    takes minutes. Hooks that are added in the block to modules inside of a layer may not be seen.
    """
    from torch._dynamo import config

    layers = layers_of(model)
    for layer in layers:
        layer.compile()
    try:
        with config.patch(recompile_limit=LIMIT):
            yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # there is no other way back


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model of transformers, or the whole where it does not say what its layers are."""
    kinds: set[str] = set()
    for part in model.modules():
        named = getattr(part, "_no_split_modules", None) or ()
        kinds |= {named} if isinstance(named, str) else {*named}
    return [part for part in model.modules() if type(part).__name__ in kinds] or [model]


@contextmanager
def logits_in_one_product(model: Any) -> Iterator[None]:
    """Lets the output embedding multiply all rows of a batch at once, to the same values but for rounding.

    Of what `logits_to_keep` cuts from each row PyTorch makes a product for each, since such a slice is not
    one block of memory, and on a CPU copies the vocabulary's weights to do so if they are bfloat16.
    """

    def one_block(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Tensor] | None:
        hidden = arguments[0] if len(arguments) == 1 else None
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            return None
        return (hidden.reshape(-1, hidden.shape[2]).view(hidden.shape),)  # one row, too, has its strides anew

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    handle = head.register_forward_pre_hook(one_block) if isinstance(head, nn.Module) else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def check_compiler() -> None:
    """Look for what torch.compile compiles with.

    Raises:
        GraspError: There is no C++ compiler.
    """
    if shutil.which(named := os.environ.get("CXX") or "c++") is None and shutil.which("g++") is None:
        raise GraspError(
            f"torch_compile: true needs a C++ compiler, and {named} is not here: install g++, or name "
            "another with CXX in the environment"
        )
