"""Adaptive LoRA merge with pruning (Miyano & Arase, 2025, Sec. 3.2, Algorithm 1, App. C): the baseline.

After every optimizer step importance is evaluated anew and the least important entries are reset; at the
next step they are trained again. Three independent choices: importance from `input` or `gradient`, unit
`parameter` or `module`, reset value `zero` or `init`. Nothing stays masked, so there are no dense values.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from grasp_lora.control.pruning import AdapterPart, PruneUnit, masks_at, prune_units, thresholds
from grasp_lora.lm.loss import TargetLoss, evaluation_mode

__all__ = ["GradientImportance", "InputImportance", "StepPruner"]


class StepPruner:
    """Resets the least important entries of an adapter's factors.

    Args:
        parameters: LoRA factors by PEFT name, from `adapter_parameters`.
        parts: For a merged adapter, which rows and columns came from which adapter. The paper compares
            within one adapter's module, never across.
        p: Ratio of entries to reset per unit, where `unit` is "parameter".
        unit: "parameter" resets the lowest entries of each factor; "module" resets an adapter's A and B at
            a site as a whole where the mean importance of their entries is under `threshold`.
        value: "zero", or "init": what the entry was at construction.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        parts: Mapping[str, Sequence[AdapterPart]] | None = None,
        *,
        p: float = 0.0,
        unit: Literal["parameter", "module"] = "parameter",
        value: Literal["zero", "init"] = "zero",
        threshold: float = 0.0,
    ) -> None:
        self.parameters = list(parameters.values())
        self.units = prune_units(parameters, parts)
        self.p, self.unit, self.threshold = p, unit, threshold
        self._reset = [
            w.detach().clone() if value == "init" else torch.zeros_like(w) for w in self.parameters
        ]

    @torch.no_grad()
    def prune(self, importance: Sequence[Tensor]) -> list[Tensor]:
        """Reset by importance, one tensor per factor and of its shape; returns the keep masks."""
        keep = [torch.empty_like(w, dtype=torch.bool) for w in self.parameters]
        if self.unit == "parameter":
            cut = [t[0] for t in thresholds(importance, self.units, [self.p])]
            masks_at(importance, self.units, cut, out=keep)
        else:
            for module in self._modules():
                scores = torch.cat([unit.of(importance).reshape(-1) for unit in module])
                for unit in module:
                    unit.of(keep).copy_(scores.mean() >= self.threshold)
        for weight, mask, value in zip(self.parameters, keep, self._reset, strict=True):
            weight.copy_(torch.where(mask, weight, value))
        return keep

    def _modules(self) -> list[list[PruneUnit]]:
        """Units of one adapter's A and B at one site together."""
        modules: dict[str, list[PruneUnit]] = {}
        for unit in self.units:
            modules.setdefault(unit.name.replace(".lora_B", ".lora_A"), []).append(unit)
        return list(modules.values())


class GradientImportance:
    """|w dL/dw|, smoothed: exponential average times uncertainty (App. C; Zhang et al., 2022).

    Call it after the optimizer's step and before the gradients are cleared.

    Args:
        parameters: The LoRA factors.
        beta1, beta2: Decay of the average and of the uncertainty.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], beta1: float = 0.85, beta2: float = 0.85) -> None:
        self.parameters, self.beta1, self.beta2 = list(parameters), beta1, beta2
        self._average = [torch.zeros_like(w) for w in self.parameters]
        self._uncertainty = [torch.zeros_like(w) for w in self.parameters]

    @torch.no_grad()
    def __call__(self) -> list[Tensor]:
        """S = I_bar * U_bar, one tensor per factor."""
        for weight, average, uncertainty in zip(
            self.parameters, self._average, self._uncertainty, strict=True
        ):
            gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
            importance = (weight * gradient).abs()
            average.mul_(self.beta1).add_(importance, alpha=1 - self.beta1)
            uncertainty.mul_(self.beta2).add_((importance - average).abs(), alpha=1 - self.beta2)
        return [a * u for a, u in zip(self._average, self._uncertainty, strict=True)]


class InputImportance:
    """|BA| * ||X||_2 on the validation set, attributed to the factors (Sec. 3.2).

    X are the projection's real inputs, seen by forward hooks in one batched pass over the validation set, so
    any architecture will do; padding does not count. With S = sum_ij |(BA)_ij| ||X_j||_2 of one adapter at
    one site, an entry of A scores |dS/dA| and an entry of B |dS/dB|. PEFT's scaling is left out: it is one
    constant per adapter.

    Args:
        model: The PEFT model.
        parameters: Its LoRA factors by PEFT name.
        validation: The batched validation set.
        parts: As for `StepPruner`.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        validation: TargetLoss,
        parts: Mapping[str, Sequence[AdapterPart]] | None = None,
    ) -> None:
        self.model, self.validation = model, validation
        self.parameters = list(parameters.values())
        self._modules = {name.split(".lora_")[0]: None for name in parameters}
        self._units = {(u.name, u.dim): u for u in prune_units(parameters, parts)}
        self._index = list(parameters)

    @torch.no_grad()
    def __call__(self) -> list[Tensor]:
        """One score tensor per factor, of its shape."""
        norms = self.input_norms()
        scores = [torch.zeros_like(w) for w in self.parameters]
        for (name, dim), unit_a in self._units.items():
            if dim != 0:
                continue
            unit_b = self._units[name.replace(".lora_A", ".lora_B"), 1]
            x = norms[self._index[unit_a.factor].split(".lora_")[0]]
            a, b = (
                unit_a.of(self.parameters).detach(),
                unit_b.of(self.parameters).detach(),
            )  # (r, in), (out, r)
            signed = torch.sign(b @ a) * x  # (out, in)
            unit_a.of(scores).copy_((b.T @ signed).abs())
            unit_b.of(scores).copy_((signed @ a.T).abs())
        return scores

    def input_norms(self) -> dict[str, Tensor]:
        """||X_j||_2 over all validation tokens, (in,) in float32, by the adapted module's name."""
        device = self.parameters[0].device
        with evaluation_mode(self.model), self._watch() as (squares, mask):
            for batch in self.validation.batches:
                inputs: dict[str, Any] = {
                    k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()
                }
                del inputs["labels"]
                if "logits_to_keep" in inputs:
                    inputs["logits_to_keep"] = 1  # only the inputs of the projections are wanted
                mask[:] = [inputs["attention_mask"].bool()]
                self.model(**inputs, use_cache=False)
        return {name: total.sqrt() for name, total in squares.items()}

    @contextmanager
    def _watch(self) -> Iterator[tuple[dict[str, Tensor], list[Tensor]]]:
        squares: dict[str, Tensor] = {}
        mask: list[Tensor] = []

        def hook(name: str) -> Any:
            def add(_: nn.Module, arguments: tuple[Any, ...]) -> None:
                hidden = arguments[0].reshape(-1, arguments[0].shape[-1])  # some models flatten tokens first
                seen = hidden[mask[0].reshape(-1)].float()  # (tokens, in)
                squares[name] = squares.get(name, 0) + seen.square().sum(0)

            return add

        handles = [self.model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in self._modules]
        try:
            yield squares, mask
        finally:
            for handle in handles:
                handle.remove()
