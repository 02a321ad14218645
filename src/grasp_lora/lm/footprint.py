"""How much memory a backbone and a training need, from shapes alone: no weights are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.backbone import DType, pick_device, resolve_dtype
from grasp_lora.lm.encoding import Encoded
from grasp_lora.lm.packaged.backbones import config_of, converted

__all__ = ["Batch", "Shapes", "shapes_of", "tokenizer_of"]

TRAINED = 6  # float32 copies: weights, gradients, Adam's two moments, the best epoch's, those that masks hide
LOGITS = 3  # float32 copies on the way back: the log-softmax, its gradient, and that of the logits
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: of 64 a scale in a byte, of 256 scales a float32
INT8 = 1.0  # and a float32 scale for each output


@dataclass(frozen=True, slots=True)
class Batch:
    """The largest batch of some work.

    Attributes:
        tokens: Padding included.
        targets: How many of them get logits.
        length: Of each row; 0 where it is not known.
    """

    tokens: int
    targets: int
    length: int = 0

    @classmethod
    def of(cls, rows: Sequence[Encoded], count: int) -> "Batch":
        """`count` rows, each as long as the longest one."""
        longest = max(map(len, rows), default=0)
        targets = max((row.targets for row in rows), default=0) + 1
        return cls(count * longest, count * targets, longest)

    @property
    def mask(self) -> int:
        """Places of the attention mask: rows of one batch are padded, and one row alone has no mask."""
        return self.tokens * self.length if self.tokens > self.length else 0


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a backbone, and of a new adapter on it.

    Attributes:
        parameters: Of the backbone.
        each: Bytes of one of them, as it is loaded.
        stored: And in the file.
        adapter: Parameters of the adapter.
        linear: Of the parameters, those of linear layers, which quantization changes; the output embedding's
            are not among them.
        outputs: Of these layers together.
        kept: Values in the backbone's type that the way back needs of each token, over all layers.
        repeated: How many more in a batch with a mask, where keys and values are repeated for each head.
        kept_floats: The same in float32, whatever the backbone's type.
        noise: Bytes that dropout remembers of each token.
        quantization: "nf4", "int8", or None.
    """

    parameters: int
    each: int
    stored: int
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    adapter: int
    linear: int = 0
    outputs: int = 0
    kept: int = 0
    repeated: int = 0
    kept_floats: int = 0
    noise: int = 0
    quantization: str | None = None

    @property
    def weights(self) -> int:
        """Bytes of the backbone in memory."""
        if self.quantization is None:
            return self.parameters * self.each
        linear = self.linear * (NF4 if self.quantization == "nf4" else INT8)
        scales = 0 if self.quantization == "nf4" else 4 * self.outputs
        return int(linear) + scales + (self.parameters - self.linear) * self.each

    @property
    def loading(self) -> int:
        """Bytes that reading the file takes beside the weights: none where these are the file, mapped."""
        same = self.stored == self.each and self.quantization is None
        return 0 if same else self.parameters * self.stored

    def training(self, adapter: int, batch: Batch, *, checkpointing: bool = False) -> int:
        """Bytes that a training needs beside the backbone.

        Args:
            adapter: Bytes of its weights, in float32.
            checkpointing: Whether only each layer's input is kept, and one layer at a time made again.
        """
        masked = batch.mask > 0
        token = (self.kept + masked * self.repeated) * self.each + 4 * self.kept_floats + self.noise
        if checkpointing:
            token = self.layers * self.hidden * self.each + token // max(1, self.layers)
        logits = LOGITS * batch.targets * self.vocabulary * 4
        # What one layer's way back makes anew goes before the next one's, and comes after the logits' went.
        passing = batch.tokens * (2 * self.hidden + 3 * self.inner) * self.each
        masks = adapter // 4 + batch.mask * self.each
        return TRAINED * adapter + masks + batch.tokens * token + max(logits, passing)

    def looking(self, adapter: int, batch: Batch) -> int:
        """Bytes that a loss without gradients, or answers, need beside the backbone."""
        passing = batch.tokens * (4 * self.hidden + 3 * self.inner) * self.each
        return adapter + 2 * batch.targets * self.vocabulary * 4 + passing


def shapes_of(
    name: str,
    lora: Lora | None,
    *,
    dtype: DType,
    device: str,
    revision: str | None,
    quantization: str | None = None,
) -> Shapes | None:
    """The shapes of a backbone that is on this machine, or a packaged one; None of any other, and of one that
    has none of the usual shapes.

    It is built without memory for its weights, and no random number is drawn.

    Args:
        lora: The adapter; None: whichever, so that the usual one need not fit.

    Raises:
        GraspError: The adapter does not fit.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    chosen = getattr(torch, resolve_dtype(dtype, device))
    try:
        config = config_of(name) or AutoConfig.from_pretrained(name, revision=revision, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=chosen)
        parameters = sum(value.numel() for value in model.parameters())
        model.requires_grad_(False)
        linear = [one for one in model.modules() if _is_quantized(one, model)]
        with torch.random.fork_rng(devices=[]):
            adapted = new_adapter(model, lora or Lora())
        kept, repeated = _of_a_layer(config)
        norms = sum(_width_of_norm(name, one, config) for name, one in model.named_modules())
    except GraspError:
        if lora is not None:
            raise
        return None
    except (OSError, ValueError, RuntimeError, TypeError, AssertionError, AttributeError, LookupError):
        return None  # whoever loads it says what is wrong
    inputs = [one.in_features for one in adapted.modules() if hasattr(one, "lora_dropout")]
    layers, on_cpu = _size(config, "num_hidden_layers"), pick_device(device).type == "cpu"
    return Shapes(
        parameters=parameters,
        each=chosen.itemsize,
        stored=getattr(config.dtype, "itemsize", chosen.itemsize),  # of a packaged one it is not said
        vocabulary=_size(config, "vocab_size"),
        hidden=_size(config, "hidden_size"),
        inner=_size(config, "intermediate_size") or 4 * _size(config, "hidden_size"),
        layers=layers,
        adapter=sum(value.numel() for value in adapted.parameters() if value.requires_grad),
        linear=sum(one.weight.numel() for one in linear),
        outputs=sum(one.out_features for one in linear),
        kept=layers * kept,
        repeated=layers * repeated,
        kept_floats=norms + sum(inputs),  # what is normed, and what adapters see, both as float32
        noise=sum(inputs) * (0 if lora is not None and lora.dropout == 0 else 4 if on_cpu else 1),
        quantization=quantization,
    )


def _of_a_layer(config: Any) -> tuple[int, int]:
    """Values that the way back needs of a token from attention and MLP, and how many more with a mask."""
    heads = _size(config, "num_attention_heads")
    groups = _size(config, "num_key_value_heads") or heads
    width = _head(config)
    attention = (2 * heads + 2 * groups) * width  # queries and what comes out, keys and values
    inner = _size(config, "intermediate_size") or 4 * _size(config, "hidden_size")
    return attention + 3 * inner, 2 * (heads - groups) * width  # the gate, what passes it, and their product


def _width_of_norm(name: str, module: nn.Module, config: Any) -> int:
    """Values of each token that a norm is given: of queries and keys those of all heads."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 1:
        return 0
    heads = {"q_norm": "num_attention_heads", "k_norm": "num_key_value_heads"}.get(name.rpartition(".")[2])
    each = heads is not None and len(weight) == _head(config)
    return len(weight) * (_size(config, heads) if each and heads else 1)


def _is_quantized(module: nn.Module, model: Any) -> bool:
    return isinstance(module, nn.Linear) and module is not model.get_output_embeddings()


def _head(config: Any) -> int:
    heads = _size(config, "num_attention_heads")
    return _size(config, "head_dim") or _size(config, "hidden_size") // max(1, heads)


def tokenizer_of(name: str, revision: str | None) -> Any:
    """The tokenizer, where it is on this machine; None where it is not."""
    from transformers import AutoTokenizer

    try:
        path = name if config_of(name) is None else converted(name)
        return path and AutoTokenizer.from_pretrained(path, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return None


def _size(config: Any, name: str) -> int:
    size = getattr(config.get_text_config(), name, 0) or 0
    return max(map(int, size)) if isinstance(size, list | tuple) else int(size)  # some differ by layer
