"""How much memory a backbone and a training need, from shapes alone: no weights are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import Lora, new_adapter
from grasp_lora.lm.backbone import DType, resolve_dtype
from grasp_lora.lm.encoding import Encoded
from grasp_lora.lm.packaged.backbones import config_of, converted

__all__ = ["Batch", "Shapes", "shapes_of", "tokenizer_of"]

TRAINED = 6  # float32 copies: weights, gradients, Adam's two moments, the best epoch's, those that masks hide
LOGITS = 4  # float32 copies while training: themselves, their log-softmax, and the gradient of each


@dataclass(frozen=True, slots=True)
class Batch:
    """The largest batch of some work: its tokens, padding included, and how many of them get logits."""

    tokens: int
    targets: int

    @classmethod
    def of(cls, rows: Sequence[Encoded], count: int) -> "Batch":
        """`count` rows, each as long as the longest one."""
        longest = max(map(len, rows), default=0)
        return cls(count * longest, count * (max((row.targets for row in rows), default=0) + 1))


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a backbone, and of a new adapter on it.

    Attributes:
        parameters: Of the backbone.
        each: Bytes of one of them, as it is loaded.
        stored: And in the file.
        adapter: Parameters of the adapter.
    """

    parameters: int
    each: int
    stored: int
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    adapter: int

    @property
    def weights(self) -> int:
        """Bytes of the backbone in memory."""
        return self.parameters * self.each

    @property
    def loading(self) -> int:
        """Bytes that reading the file takes beside the weights: none where these are the file, mapped."""
        return 0 if self.stored == self.each else self.parameters * self.stored

    def training(self, adapter: int, batch: Batch) -> int:
        """Bytes that a training needs beside the backbone.

        Args:
            adapter: Bytes of its weights, in float32.
        """
        # Of each layer, what the way back needs: norms, projections, attention's output, the gated product.
        kept = batch.tokens * self.layers * (12 * self.hidden + 4 * self.inner) * self.each
        masks = adapter // 4
        return TRAINED * adapter + masks + LOGITS * batch.targets * self.vocabulary * 4 + kept

    def looking(self, adapter: int, batch: Batch) -> int:
        """Bytes that a loss without gradients, or answers, need beside the backbone."""
        passing = batch.tokens * (4 * self.hidden + 3 * self.inner) * self.each
        return adapter + 2 * batch.targets * self.vocabulary * 4 + passing


def shapes_of(name: str, lora: Lora, *, dtype: DType, device: str, revision: str | None) -> Shapes | None:
    """The shapes of a backbone that is on this machine, or a packaged one; None of any other.

    It is built without memory for its weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    chosen = getattr(torch, resolve_dtype(dtype, device))
    try:
        config = config_of(name) or AutoConfig.from_pretrained(name, revision=revision, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=chosen)
        parameters = sum(value.numel() for value in model.parameters())
        model.requires_grad_(False)
        adapted = new_adapter(model, lora)
    except (OSError, ValueError, GraspError):  # whoever loads it says what is wrong
        return None
    return Shapes(
        parameters=parameters,
        each=chosen.itemsize,
        stored=getattr(config.dtype, "itemsize", chosen.itemsize),  # of a packaged one it is not said
        vocabulary=_size(config, "vocab_size"),
        hidden=_size(config, "hidden_size"),
        inner=_size(config, "intermediate_size") or 4 * _size(config, "hidden_size"),
        layers=_size(config, "num_hidden_layers"),
        adapter=sum(value.numel() for value in adapted.parameters() if value.requires_grad),
    )


def tokenizer_of(name: str, revision: str | None) -> Any:
    """The tokenizer, where it is on this machine; None where it is not."""
    from transformers import AutoTokenizer

    try:
        path = name if config_of(name) is None else converted(name)
        return path and AutoTokenizer.from_pretrained(path, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return None


def _size(config: Any, name: str) -> int:
    return int(getattr(config.get_text_config(), name, 0) or 0)
