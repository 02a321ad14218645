"""The backbone, each adapter, the source's trained on, their sum: what pruning is compared with."""

from grasp_lora.config.tree import Config
from grasp_lora.methods.method import Group, Method
from grasp_lora.workspace.training import Fixed

__all__ = ["MERGED", "SINGLE"]


def _source(label: str, name: str, title: str) -> Method:
    return Method(name, title, lambda x, seed: x.sources[label], seeded=False, whole=True)


def _sources(config: Config) -> list[Method]:
    """A method for each source's adapter."""
    labels = [side.label for side in config.sources]
    if len(labels) == 1:
        return [_source(labels[0], "lora_source", "source adapter")]
    return [_source(label, f"lora_source_{label}", f"source adapter {label}") for label in labels]


SINGLE = (
    Method("zero_shot", "backbone alone", lambda x, seed: None, seeded=False),
    Group("lora_source", _sources),
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
