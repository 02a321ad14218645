"""A LoRA adapter under a mask: pruned entries are zero, and can come back.

Every factor has a *live* value, which the model computes with, and a *dense* value: the live value
where the entry is kept, and where it is pruned the value it had when it was pruned. Masks are made
from dense values. Were they made from live values, zeros would rank lowest for ever and the ratio
could only rise.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grasp_lora.control.pruning import AdapterPart, UnitKind, masks_at, prune_units, thresholds

__all__ = ["ImportanceRefresh", "MaskedAdapter", "reset_optimizer_state"]

logger = logging.getLogger(__name__)

ImportanceRefresh = Literal["round", "start"]


class MaskedAdapter:
    """Commits, re-applies and probes masks on a LoRA adapter's factors.

    Extra memory: the dense values, one boolean mask, and while probing one copy of the live values
    and a second mask. (`importance_refresh="start"` keeps one more copy of the factors.)

    Args:
        parameters: LoRA factors by PEFT name, from `adapter_parameters`.
        parts: Which rows and columns came from which adapter; see `prune_units`.
        unit: "adapter" or "tensor"; see `prune_units`.
        importance_refresh: "round" scores the present dense values, "start" those at construction.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        parts: Mapping[str, Sequence[AdapterPart]] | None = None,
        *,
        unit: UnitKind = "adapter",
        importance_refresh: ImportanceRefresh = "round",
    ) -> None:
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.units = prune_units(parameters, parts, unit)
        self.p = 0.0
        self._masks = [torch.ones_like(w, dtype=torch.bool) for w in self._live()]
        self._dense = [w.clone() for w in self._live()]
        self._scored = self._dense if importance_refresh == "round" else [w.clone() for w in self._dense]
        self._reported: set[str] = set()

    @torch.no_grad()
    def commit(self, p: float, optimizer: Optimizer | None = None) -> None:
        """Put the mask at ratio `p` in force.

        Newly pruned entries store their value and become zero; revived ones get their dense value back.
        The optimizer's moments of both kinds are cleared.
        """
        self._update_dense()
        masks = [torch.empty_like(m) for m in self._masks]
        masks_at(
            self._scored, self.units, [t[0] for t in thresholds(self._scored, self.units, [p])], out=masks
        )
        self._write_live(masks)
        if optimizer is not None:
            changed = [old ^ new for old, new in zip(self._masks, masks, strict=True)]
            reset_optimizer_state(optimizer, self.parameters, changed)
        self._masks, self.p = masks, p
        self._report_excess()

    @torch.no_grad()
    def zero_pruned(self) -> None:
        """Set pruned entries back to zero; call it after every optimizer step."""
        torch._foreach_mul_(self._live(), self._masks)

    @contextmanager
    def probing(self, ratios: Sequence[float]) -> Iterator[Callable[[int], None]]:
        """Try masks without committing them.

        Within the context, the yielded function puts the mask of `ratios[i]` in force. On leaving, by
        an exception too, the live values are restored bit for bit.
        """
        with torch.no_grad():
            self._update_dense()
            cuts = thresholds(self._scored, self.units, ratios)
            saved = [w.clone() for w in self._live()]
            masks = [torch.empty_like(m) for m in self._masks]

        @torch.no_grad()
        def apply(i: int) -> None:
            masks_at(self._scored, self.units, [cut[i] for cut in cuts], out=masks)
            self._write_live(masks)

        try:
            yield apply
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._live(), saved)

    def masks(self) -> dict[str, Tensor]:
        """The committed keep masks, by parameter name."""
        return dict(zip(self.names, self._masks, strict=True))

    def pruned_shares(self) -> dict[str, float]:
        """The pruned share of every unit under the committed mask; at least p, more where scores tie."""
        pruned = torch.stack([unit.of(self._masks).logical_not().sum() for unit in self.units]).tolist()
        return {u.name: n / u.of(self._masks).numel() for u, n in zip(self.units, pruned, strict=True)}

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:
        """The ratio, and masks, dense and scored values by `KIND.NAME`; live values follow from them."""
        self._update_dense()
        kinds = {"mask": self._masks, "dense": self._dense}
        if self._scored is not self._dense:
            kinds["scored"] = self._scored
        state = {f"{k}.{n}": t for k, ts in kinds.items() for n, t in zip(self.names, ts, strict=True)}
        return {"p": torch.tensor(self.p, dtype=torch.float64)} | state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`, and the live weights that follow from it.

        Raises:
            KeyError: The state is that of other parameters.
        """
        self.p = float(state["p"])
        kinds = {"mask": self._masks, "dense": self._dense, "scored": self._scored}
        for kind, tensors in kinds.items():
            if kind != "scored" or self._scored is not self._dense:
                for name, tensor in zip(self.names, tensors, strict=True):
                    tensor.copy_(state[f"{kind}.{name}"])
        self._write_live(self._masks)

    def _live(self) -> list[Tensor]:
        return [p.detach() for p in self.parameters]

    def _update_dense(self) -> None:
        """Take kept entries over from the live values; pruned ones keep what they had."""
        for dense, live, mask in zip(self._dense, self._live(), self._masks, strict=True):
            torch.where(mask, live, dense, out=dense)

    def _write_live(self, masks: list[Tensor]) -> None:
        live = self._live()
        torch._foreach_copy_(live, self._dense)
        torch._foreach_mul_(live, masks)

    def _report_excess(self) -> None:
        """Ties can prune more than p: an untrained B is all zeros, and goes as a whole. Say so once."""
        shares = self.pruned_shares()
        excess = [n for n, share in shares.items() if share > self.p + 0.01 and n not in self._reported]
        if self.p > 0 and excess:
            self._reported.update(excess)
            listed = ", ".join(f"{n} ({shares[n]:.0%})" for n in excess[:4])
            more = f" and {len(excess) - 4} more" if len(excess) > 4 else ""
            logger.warning("tied scores prune more than p = %.3f in %s%s", self.p, listed, more)


def reset_optimizer_state(
    optimizer: Optimizer, parameters: Sequence[nn.Parameter], changed: Sequence[Tensor]
) -> None:
    """Zero the optimizer's per-entry state (Adam's moments, momentum) where `changed` is True.

    State of any other shape than the parameter's, such as the step counter, is kept.

    Raises:
        ValueError: A state tensor of the parameter's shape is not floating point (an 8-bit optimizer),
            so that zero bits need not mean a zero moment.
    """
    states, keep = [], []
    for parameter, entries in zip(parameters, changed, strict=True):
        for name, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor) or value.shape != parameter.shape:
                continue
            if not value.is_floating_point():
                raise ValueError(f"cannot clear '{name}' of type {value.dtype}; use a 32-bit optimizer")
            states.append(value)
            keep.append(~entries)
    if states:
        torch._foreach_mul_(states, keep)
