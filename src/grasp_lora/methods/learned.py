"""A ratio that is learned while training goes on: GRASP, variants of its settings, even draws, a curve."""

from typing import Any

from grasp_lora.control.settings import Control
from grasp_lora.errors import GraspError
from grasp_lora.methods.method import Method
from grasp_lora.methods.start import Start
from grasp_lora.stages.curve import CURVE
from grasp_lora.stages.prune import PRUNE
from grasp_lora.stages.select import SELECT
from grasp_lora.workspace.stage import Stage
from grasp_lora.workspace.training import Fixed

__all__ = ["LEARNED", "variant"]


def _learned(x: Start, seed: int, learn: str, final: str, policy: str, control: Control) -> Stage:
    """The ratio with the config's seed, and a final run at it with this one (GRASP Secs. 3.3, 3.4)."""
    ratio = x.first.learn(f"learn/{learn}seed{x.config.seed}", policy, control)
    return _final(x, seed, ratio, final, control)


def _final(x: Start, seed: int, ratio: Stage, final: str, control: Control) -> Stage:
    return x.train(f"{final}/seed{seed}", seed, start=x.merged, mask=x.final_mask(ratio, control.unit))


def _grasp(x: Start, seed: int) -> Stage:
    return _learned(x, seed, "", "final", "gaussian", x.config.control)


def _random(x: Start, seed: int) -> Stage:
    return _learned(x, seed, "random-", "random", "uniform", x.config.control)


def variant(name: str, control: Control) -> Method:
    """GRASP with other settings of the controller."""

    def adapter(x: Start, seed: int) -> Stage:
        learn, final, own = f"{name}-", f"variants/{name}", x.config.control
        if control.model_copy(update=_rule(own)) != own:
            return _learned(x, seed, learn, final, "gaussian", control)
        # Only the rule differs, so that one log teaches both.
        given = {"learned": x.first.learn(f"learn/seed{x.config.seed}", "gaussian", own), "control": control}
        ratio = Stage(f"learn/{learn}seed{x.config.seed}", SELECT, given)
        return _final(x, seed, ratio, final, control)

    return Method(name, name, adapter)


def _curve(x: Start, seed: int) -> Stage:
    """The ratio from one training of all, with the config's seed; then as `curve.adapter` says."""
    config, unit = x.config, x.config.control.unit
    ratio = _taught(x.first, config.seed)
    if config.curve.adapter == "final":
        if config.curve.per_adapter and config.final.pruning == "every_step":
            raise GraspError("final.pruning: every_step takes one ratio, and curve.per_adapter finds several")
        return x.train(f"curve/seed{seed}", seed, start=x.merged, mask=x.final_mask(ratio, unit))
    own = _taught(x, seed)
    if config.curve.adapter == "trained_on":
        return x.train(f"curve/seed{seed}", seed, start=own, mask=Fixed(ratio, unit))
    given = {
        "model": x.model,
        "adapter": own,
        "parts": x.merged,
        "ratio": ratio,
        "unit": unit,
        "dev": x.rows(config.target, "dev"),
        "limits": x.limits,
    }
    return Stage(f"curve/seed{seed}", PRUNE, given)


def _taught(x: Start, seed: int) -> Stage:
    """The training of all ratios."""
    config = x.config
    given = {
        "model": x.model,
        "start": x.merged,
        "train": x.rows(config.target, "train"),
        "micro_dev": x.micro_dev(config.control.micro_dev),
        "how": config.curve.model_copy(update={"adapter": "final"}),  # which makes no other curve
        "adapters": len(x.adapters) if config.curve.per_adapter else 0,
        "unit": config.control.unit,
        "training": config.learn.training,
        "limits": x.limits,
        "seed": seed,
    }
    return Stage(f"learn/curve-seed{seed}", CURVE, given)


def _rule(control: Control) -> dict[str, Any]:
    """How p* is chosen from the log."""
    return {"select": control.select, "margin": control.margin}


LEARNED = (
    Method("random", "random ratios", _random),
    Method("curve", "one training of all ratios", _curve, in_all=False),
    Method("grasp", "GRASP", _grasp, reference=True, default=True),
)
