"""A ratio that is learned while training goes on: GRASP, variants of its settings, and even draws."""

from typing import Any

from grasp_lora.control.settings import Control
from grasp_lora.methods.method import Method
from grasp_lora.methods.start import Start
from grasp_lora.stages.select import SELECT
from grasp_lora.workspace.stage import Stage

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


def _rule(control: Control) -> dict[str, Any]:
    """How p* is chosen from the log."""
    return {"select": control.select, "margin": control.margin}


LEARNED = (
    Method("random", "random ratios", _random),
    Method("grasp", "GRASP", _grasp, reference=True, default=True),
)
