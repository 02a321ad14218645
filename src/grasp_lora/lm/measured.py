"""What was measured of a deployment; apart, so that who only reads it needs no torch."""

from dataclasses import dataclass

__all__ = ["AdapterSize", "Deployment", "Variant"]


@dataclass(frozen=True, slots=True)
class AdapterSize:
    """What an adapter's weights take on disk, and what a sparse format would keep of them, indices aside."""

    file_bytes: int
    entries: int
    nonzero_share: float
    nonzero_bytes: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One form of the model. Seconds, rates and the loading peak are medians over the repeats.

    Peaks are those of the GPU's allocator for a model on a CUDA GPU; else of the whole process, interpreter
    and libraries included.
    """

    backbone_load_seconds: float
    """With its tokenizer, from a warm disk cache."""
    adapter_load_seconds: float
    """0 without an adapter."""
    merge_seconds: float
    """0 where nothing is merged."""
    load_peak_bytes: int
    """While all of that was done."""
    first_token_seconds: float
    """From the encoded prompt to the first new token."""
    tokens_per_second: float | None
    """After the first new token; None where there is no second one."""
    peak_bytes: int
    """While generating."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Both forms, and how they were measured. Without an adapter only `unmerged`, the bare backbone; of a
    quantized backbone, too.
    """

    adapter: AdapterSize | None
    unmerged: Variant
    merged: Variant | None
    same_answers: float | None
    """Share of the examples whose tokens are all the same in both forms: merging rounds the weights."""
    examples: int
    prompt_tokens: float
    """The median."""
    new_tokens: int
    repeats: int
    device: str
    dtype: str
