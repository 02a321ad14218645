"""The backbone, each adapter, the source's trained on, their sum: what pruning is compared with."""

from grasp_lora.methods.method import Method
from grasp_lora.workspace.training import Fixed

__all__ = ["MERGED", "SINGLE"]

SINGLE = (
    Method("zero_shot", "backbone alone", lambda x, seed: None, seeded=False),
    Method("lora_source", "source adapter", lambda x, seed: x.source, seeded=False, whole=True),
    Method(
        "lora_target",
        "target adapter, not merged",
        lambda x, seed: x.target,
        seeded=False,
        whole=True,
        default=True,
    ),
    Method(
        "sequential",
        "source adapter, trained on",
        lambda x, seed: x.train(f"sequential/seed{seed}", seed, start=x.source),
    ),
)
MERGED = (
    Method("merge_untrained", "merged, not fine-tuned", lambda x, seed: x.merged, seeded=False, default=True),
    Method(
        "merge",
        "merged, fine-tuned, not pruned",
        lambda x, seed: x.train(f"merge/seed{seed}", seed, start=x.merged, mask=Fixed(0.0)),
        default=True,
    ),
)
