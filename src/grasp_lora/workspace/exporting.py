"""An adapter passed on: as it is, of lower rank, for another loader, or merged into its base model."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from grasp_lora.errors import GraspError
from grasp_lora.lm.adapters import load_adapter, load_beside, merge_into_base
from grasp_lora.lm.agreement import PROMPTS, check_agreement, logits_of
from grasp_lora.lm.backbone import load_backbone, resolve_dtype
from grasp_lora.merging.export import DTYPES, DType, Exported, Loader, export_adapter
from grasp_lora.merging.hub import CARD_FILE, CONFIG_FILE, find_adapter
from grasp_lora.merging.reading import base_of, read_settings
from grasp_lora.merging.writing import new_folder
from grasp_lora.workspace.card import shape_of
from grasp_lora.workspace.publishing import BESIDE, base_revision, card_of_copy

__all__ = ["DevLoss", "export", "export_merged"]

DevLoss = Callable[[Path, Path], tuple[float, float]]
"""The dev losses of the original and of the export, from their folders."""


@dataclass
class _Said:
    lines: list[str] = field(default_factory=list)

    def dev(self, dev_loss: DevLoss | None, original: Path, made: Path) -> None:
        if dev_loss is not None:
            before, after = dev_loss(original, made)
            self.lines.append(
                f"Dev loss: {before:.4f} before, {after:.4f} after ({after - before:+.4f} nats per token)."
            )


def export(
    adapter: str | Path,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    loader: Loader = "peft",
    dtype: DType | None = None,
    base: str | None = None,
    dev_loss: DevLoss | None = None,
) -> list[str]:
    """Write an adapter into the new folder `out`; see `merging.export.export_adapter` for what it can become.

    Args:
        base: A backbone, on which the logits of both are compared before the folder appears.
        dev_loss: Scores both, which is said.

    Returns:
        What was done, in sentences.

    Raises:
        GraspError: As `export_adapter`, or the logits are apart.
    """
    folder, said = find_adapter(adapter), _Said()

    def finish(made: Path, done: Exported) -> None:
        said.lines += _described(done, loader, dtype)
        if base is not None:
            said.lines.append(_compared(base, folder, made, dtype or "fp32", max(done.energies)))
        said.dev(dev_loss, folder, made)
        notes = [] if done.as_it_was else said.lines
        if (revision := base_revision(folder)) is not None:
            settings = read_settings(str(made), made) | {"revision": revision}
            (made / CONFIG_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
        text = card_of_copy(
            folder, Path(out).name, notes=notes, shape=shape_of(made), changed=bool(done.lost)
        )
        (made / CARD_FILE).write_text(text, encoding="utf-8")

    export_adapter(
        adapter,
        out,
        rank=rank,
        energy=energy,
        loader=loader,
        dtype=dtype,
        extras=BESIDE,
        finish=finish,
    )
    return said.lines


def export_merged(
    adapter: str | Path,
    out: Path,
    *,
    dtype: DType | None = None,
    base: str | None = None,
    dev_loss: DevLoss | None = None,
) -> list[str]:
    """Write the base model with the adapter merged into it, and its tokenizer, into the new folder `out`.

    Merged in float32. What was written is loaded again, and its logits are compared with those of base model
    and adapter side by side before the folder appears.

    Args:
        base: The backbone; None: the one that the adapter names.

    Raises:
        GraspError: There is no such backbone, or the logits are apart.
    """
    folder, said = find_adapter(adapter), _Said()
    base = base or base_of(folder)
    if base is None:
        raise GraspError(f"{adapter} does not name its base model: give it with --base")
    with new_folder(Path(out)) as made:
        backbone = load_backbone(base, dtype="float32", revision=base_revision(folder, base))
        adapted = load_adapter(backbone.model, folder, trainable=False)
        original, bare = _logits(adapted, backbone.tokenizer)
        merge_into_base(adapted, backbone.tokenizer, made, DTYPES[dtype or "fp32"])
        del backbone, adapted  # before another one is loaded
        again = load_backbone(str(made), dtype="float32")
        found, allowed = check_agreement(
            original, bare, logits_of(again.model, again.tokenizer), dtype or "fp32", lost=0.0
        )
        said.lines.append(f"Full weights in {dtype or 'fp32'}. {_agree(found, allowed)}")
        said.dev(dev_loss, folder, made)
        text = card_of_copy(folder, Path(out).name, notes=said.lines, merged=True)
        (made / CARD_FILE).write_text(text, encoding="utf-8")
    return said.lines


def _described(done: Exported, loader: Loader, dtype: DType | None) -> list[str]:
    if done.as_it_was:
        return ["The files as they were."]
    lines, largest = [], max(done.ranks.values())
    if done.lost:
        before, now = ({getattr(one, key) for one in done.lost.values()} for key in ("before", "rank"))
        lines.append(
            f"Rank {_range(now)} instead of {_range(before)}. Of a delta W's squared norm that gave up "
            f"{max(done.energies):.3%} at most, {fmean(done.energies):.3%} on average."
        )
    if loader != "peft":
        flag = f": start it with --max-lora-rank {max(8, largest)}" if loader == "vllm" else ""
        lines.append(f"For {loader}, every module has rank {largest} and scaling 1{flag}.")
    lines.append(
        f"In {dtype or 'fp32'}; each delta W, read back, is within {done.apart:.1e} of the original's norm."
    )
    return lines


def _compared(base: str, original: Path, made: Path, dtype: str, lost: float) -> str:
    backbone = load_backbone(base, revision=base_revision(original, base))
    adapted = load_adapter(backbone.model, original, trainable=False)
    first, bare = _logits(adapted, backbone.tokenizer)
    load_beside(adapted, made, "export")
    adapted.set_adapter("export")
    computed = "fp32" if resolve_dtype() == "float32" else "bf16"
    coarser = "bf16" if "bf16" in (computed, dtype) else dtype
    found, allowed = check_agreement(first, bare, logits_of(adapted, backbone.tokenizer), coarser, lost)
    return _agree(found, allowed)


def _logits(adapted: Any, tokenizer: Any) -> tuple[Any, Any]:
    """With the adapter, and without it."""
    with_it = logits_of(adapted, tokenizer)
    with adapted.disable_adapter():
        return with_it, logits_of(adapted, tokenizer)


def _agree(found: Any, allowed: float) -> str:
    return (
        f"Logits on {len(PROMPTS)} prompts are within {found.apart:.1e} of their spread (allowed: "
        f"{allowed:.1e}); the most likely token is the same at {found.same_first:.1%} of the positions."
    )


def _range(ranks: Collection[int]) -> str:
    return f"{max(ranks)}" if len(ranks) == 1 else f"{min(ranks)} to {max(ranks)}"
