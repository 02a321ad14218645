"""The backbone, each adapter, the source's trained on, their sum: what pruning is compared with."""

from typing import Any

from grasp_lora.config.tree import Config
from grasp_lora.methods.evaluations import best_on_dev
from grasp_lora.methods.method import Group, Method
from grasp_lora.methods.own_ratios import none_and_grid
from grasp_lora.methods.start import Start
from grasp_lora.ratios import PerAdapter, PruneRatio, shown_ratio
from grasp_lora.stages.merge import MERGE
from grasp_lora.stages.prune import PRUNE
from grasp_lora.stages.randomise import RANDOMISE
from grasp_lora.workspace.stage import Stage
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


def _joint(x: Start, seed: int) -> Stage:
    """The source adapter trained on with a source batch in each step, no dev row looked at: the average of at
    least four epochs (Schmidt et al., 2022, 2023).
    """
    training = x.config.final.training
    changes = {"average": training.average or True, "epochs": max(4, training.epochs)}
    return x.train(
        f"joint/seed{seed}",
        seed,
        start=x.source,
        training=training.model_copy(update=changes),
        beside=x.config.sources[0],
        dev=False,
    )


def _merge(x: Start, seed: int) -> Stage:
    return x.train(f"merge/seed{seed}", seed, start=x.merged, mask=Fixed(0.0))


def _merge_random(x: Start, seed: int) -> Stage:
    """As the merge, from sources with their own singular values and random singular vectors."""
    drawn = {}
    for label, made in x.sources.items():
        given: dict[str, Any] = {"adapter": made, "seed": x.config.seed}
        drawn[label] = Stage(f"randomised/{label}{x.suffix}", RANDOMISE, given, counted=False)
    given = {"adapters": {**x.adapters, **drawn}, "method": x.config.merge}
    merged = Stage(f"randomised/merged{x.suffix}", MERGE, given, counted=False)
    return x.train(f"merge_random/seed{seed}", seed, start=merged, mask=Fixed(0.0))


def _prune_after(x: Start, seed: int) -> Stage:
    """The fine-tuned merge pruned once, at 0 or the grid's ratio, whichever is best on dev."""

    def pruned(x: Start, name: str, seed: int, ratio: PruneRatio | Stage) -> Stage:
        given = {
            "model": x.model,
            "adapter": _merge(x, seed),
            "parts": x.merged,
            "ratio": ratio,
            "unit": x.config.control.unit,
            "dev": x.rows(x.config.target, "dev"),
            "limits": x.limits,
        }
        return Stage(f"prune_after/{name}seed{seed}", PRUNE, given)

    own = x.config.seed
    points: dict[PruneRatio, Stage] = {
        p: pruned(x.first, f"p{shown_ratio(p)}-", own, p) for p in none_and_grid(x.config)
    }
    best = best_on_dev(x.first, f"prune_after/seed{own}", points)
    return best if seed == own else pruned(x, "", seed, best)


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
        default=True,
        corner=PerAdapter((0.0, 1.0)),
    ),
    Method("joint", "source adapter, trained on with its rows too", _joint),
    Method(
        "target_on",
        "target adapter, trained on",
        lambda x, seed: x.train(f"target_on/seed{seed}", seed, start=x.target),
        corner=PerAdapter((1.0, 0.0)),
    ),
)
MERGED = (
    Method("merge_untrained", "merged, not fine-tuned", lambda x, seed: x.merged, seeded=False),
    Method(
        "merge",
        "merged, fine-tuned, not pruned",
        _merge,
        corner=PerAdapter((0.0, 0.0)),
        default=True,
    ),
    Method("merge_random", "merged with random directions, fine-tuned", _merge_random, control_of="merge"),
    Method("prune_after", "merged, fine-tuned, pruned at the end", _prune_after, default=True),
)
