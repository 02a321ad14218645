"""A LoRA adapter under a mask: pruned entries are zero, and can come back.

Every factor has a *live* value, which the model computes with, and a *dense* value: the live value
where the entry is kept, and where it is pruned the value it had when it was pruned. Masks are made
from dense values. Were they made from live values, zeros would rank lowest for ever and the ratio
could only rise.
"""

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from grasp_lora.control.bits import multiply, take_each, zero_outside
from grasp_lora.control.blocks import Blocks, alike
from grasp_lora.control.moments import reset_optimizer_state
from grasp_lora.control.pruning import entries_to_prune, kept_of_each, masks_at, numbers, thresholds
from grasp_lora.control.units import PruneUnit, Pruning, names_of_parts, prune_units, ratios_of_units
from grasp_lora.ratios import PruneRatio, as_ratio

__all__ = ["MaskedAdapter"]

logger = logging.getLogger(__name__)


class MaskedAdapter:
    """Commits, re-applies and probes masks on a LoRA adapter's factors.

    Extra memory: the dense values, two boolean masks, and while probing one copy of the live values
    and another mask. (`importance_refresh="start"` keeps one more copy of the factors.)

    Gradients of pruned entries are zeroed before they are accumulated, so that what clips the gradients'
    norm, or gathers them from other ranks, sees only what is trained; `close` ends that. A hook on a
    parameter that was registered before sees them whole.

    Args:
        parameters: LoRA factors by PEFT name, from `adapter_parameters`.
        pruning: How they are cut into units and scored. Where a unit is all zeros at the start, scores "from
            the start" are the first ones that are not.

    Attributes:
        p: The committed ratio: one for all entries, or one for each of `adapters`.
        adapters: The names of the parts, in the order of the merge; none where units are not of one part.
        pending: Units that the committed mask should prune and does not, because they are all zeros: nothing
            was trained there yet. Commit again once it was.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        pruning: Pruning = Pruning(),  # noqa: B008
    ) -> None:
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.units = prune_units(parameters, pruning.parts, pruning.unit)
        self.p: PruneRatio = 0.0
        self.adapters = names_of_parts(pruning.parts) if pruning.parts and pruning.unit == "adapter" else ()
        with torch.no_grad():
            self._dense = Blocks.copied(self.parameters, alike(self.parameters, self.units))
        self._masks = self._dense.map(partial(torch.ones_like, dtype=torch.bool))
        self._moved: Blocks | None = None  # entries that a commit after the first one changed
        anew = pruning.importance_refresh == "round"
        self._scored = self._dense if anew else self._dense.map(torch.clone)
        self._unscored = [] if anew else self._zeros(self._scored)
        self._reported: set[str] = set()
        self.pending: list[str] = []
        this = weakref.ref(self)
        self._hooks = [_on_gradient(p, _masking(this, i)) for i, p in enumerate(self.parameters)]

    def close(self) -> None:
        """Let gradients through whole again."""
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def nothing_to_prune_by(self) -> bool:
        """Whether the adapter does nothing, as before training: every A, or every B, is all zeros."""
        self._update_dense()
        zeros = set(self._zeros(self._dense))
        return any(all(u in zeros for u in self.units if u.dim == dim) for dim in (0, 1))

    @torch.no_grad()
    def commit(self, p: PruneRatio, optimizer: Optimizer | None = None) -> tuple[float, float]:
        """Put the mask at ratio `p` in force: of each unit p of its entries, or of each adapter's its own p.

        Newly pruned entries store their value and become zero; revived ones get their dense value back.
        The optimizer's moments of both kinds are cleared.

        Returns:
            The share of all entries whose mask changed, and of these the share that an earlier commit (other
            than the first one) had changed: they went back to what they were.

        Raises:
            GraspError: The adapter has not as many parts as there are ratios.
        """
        self._update_dense()
        masks = self._masks_at(p)
        self._write_live(masks)
        changed = self._masks.map(torch.bitwise_xor, masks)
        if optimizer is not None:
            reset_optimizer_state(optimizer, self.parameters, changed)
        self._masks, self.p = masks, p
        self._report()
        return self._note(changed)

    def _note(self, changed: Blocks) -> tuple[float, float]:
        """Remember which entries changed; see `commit`."""
        if self._moved is None:  # the first commit: there was no mask before
            self._moved = changed.map(torch.zeros_like)
            return 0.0, 0.0
        again = self._moved.map(torch.bitwise_and, changed)
        counts = numbers([mask.count_nonzero() for masks in (changed, again) for mask in masks.blocks])
        some, back = sum(counts[: len(changed.blocks)]), sum(counts[len(changed.blocks) :])
        self._moved = self._moved.map(torch.bitwise_or, changed)
        return some / sum(c.numel() for c in changed.blocks), back / max(1, some)

    @torch.no_grad()
    def zero_pruned(self) -> None:
        """Set pruned entries back to zero; call it after every optimizer step."""
        zero_outside(dict(enumerate(self.parameters)), self._masks)

    @contextmanager
    def probing(self, ratios: Sequence[PruneRatio]) -> Iterator[Callable[[int], None]]:
        """Try masks without committing them.

        Within the context, the yielded function puts the mask of `ratios[i]` in force. On leaving, by
        an exception too, the live values are restored bit for bit.
        """
        with torch.no_grad():
            self._update_dense()
            cuts = thresholds(
                self._scored, self.units, [ratios_of_units(self.units, self.adapters, p) for p in ratios]
            )
            saved = Blocks.copied(self.parameters, self._dense.order)
            masks = self._masks.map(torch.empty_like)

        @torch.no_grad()
        def apply(i: int) -> None:
            masks_at(self._scored, self.units, cuts[i], out=masks)
            multiply(self._dense, masks, out=self.parameters)

        try:
            yield apply
        finally:
            with torch.no_grad():
                torch._foreach_copy_([*self.parameters], saved)

    def masks(self) -> dict[str, Tensor]:
        """The committed keep masks, by parameter name."""
        return dict(zip(self.names, self._masks, strict=True))

    def pruned_shares(self) -> dict[str, float]:
        """The pruned share of every unit under the committed mask: p, more where scores tie, 0 if pending."""
        sizes = [unit.size(self._masks) for unit in self.units]
        kept = kept_of_each(self._masks, self.units)
        return {u.name: (d - n) / d for u, n, d in zip(self.units, kept, sizes, strict=True)}

    @torch.no_grad()
    def importances(self) -> dict[str, float]:
        """Each unit's mean importance: the mean magnitude of its dense values (GRASP Sec. 3.3)."""
        self._update_dense()
        means = numbers([unit.of(self._dense).abs().mean() for unit in self.units])
        return {unit.name: mean for unit, mean in zip(self.units, means, strict=True)}

    @torch.no_grad()
    def pruned_norms(self) -> dict[str, float]:
        """The share of every unit's squared norm, of dense values, that the committed mask takes away."""
        self._update_dense()
        squares = [(unit.of(self._dense).square(), unit.of(self._masks)) for unit in self.units]
        sums = numbers([s.sum() for s, _ in squares] + [(s * ~mask).sum() for s, mask in squares])
        count = len(self.units)
        return {
            unit.name: gone / whole if whole else 0.0
            for unit, whole, gone in zip(self.units, sums[:count], sums[count:], strict=True)
        }

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:
        """The ratio, and masks, dense and scored values by `KIND.NAME`; live values follow from them.

        Taking it changes nothing: a run that is saved more often is the same run.
        """
        dense = self._dense.map(torch.clone)
        take_each(dense, self.parameters, self._masks)
        kinds = self._kinds() | {"dense": dense}
        state = {f"{k}.{n}": t for k, ts in kinds.items() for n, t in zip(self.names, ts, strict=True)}
        return {"p": torch.tensor(self.p, dtype=torch.float64)} | state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`, and the live weights that follow from it where they are others.

        Raises:
            KeyError: The state is that of other parameters.
            ValueError: It is that of factors of other shapes.
        """
        self.p = float(state["p"]) if state["p"].ndim == 0 else as_ratio(state["p"].tolist())
        known = f"moved.{self.names[0]}" in state
        self._moved = self._masks.map(torch.zeros_like) if known else None
        for kind, tensors in self._kinds().items():
            for name, tensor in zip(self.names, tensors, strict=True):
                if (saved := state[f"{kind}.{name}"]).shape != tensor.shape:
                    raise ValueError(f"{name} is {tuple(tensor.shape)}, not {tuple(saved.shape)}")
                tensor.copy_(saved)
        self._unscored = [] if self._scored is self._dense else self._zeros(self._scored)
        self.pending = self._pending(self.pruned_shares())
        for live, dense, mask in zip(self.parameters, self._dense, self._masks, strict=True):
            if not torch.equal(live, dense * mask):  # else -0.0 stays what it is
                live.copy_(dense * mask)

    def go_on_from(self, state: Mapping[str, Tensor]) -> None:
        """`load_state_dict` where the weights are those of that moment already: they stay, bit for bit.

        Raises:
            KeyError, ValueError: They are not, or the state is that of other parameters.
        """
        weights = [w.detach().clone() for w in self.parameters]
        self.load_state_dict(state)
        if not all(torch.equal(a, b) for a, b in zip(self.parameters, weights, strict=True)):
            raise ValueError("it is not that of the adapter's weights as they were loaded")

    def _kinds(self) -> dict[str, Blocks]:
        """What there is of each factor beside its live value."""
        scored = {} if self._scored is self._dense else {"scored": self._scored}
        moved = {} if self._moved is None else {"moved": self._moved}
        return {"mask": self._masks, "dense": self._dense, **scored, **moved}

    def _update_dense(self) -> None:
        """Take kept entries over from the live values; pruned ones keep what they had."""
        take_each(self._dense, self.parameters, self._masks)
        for unit in self._unscored:
            unit.of(self._scored).copy_(unit.of(self._dense))
        if self._unscored:
            zeros = set(self._zeros(self._scored))
            self._unscored = [unit for unit in self._unscored if unit in zeros]

    def _masks_at(self, p: PruneRatio) -> Blocks:
        cuts = thresholds(self._scored, self.units, [ratios_of_units(self.units, self.adapters, p)])
        masks = self._masks.map(torch.empty_like)
        masks_at(self._scored, self.units, cuts[0], out=masks)
        return masks

    def _write_live(self, masks: Blocks) -> None:
        multiply(self._dense, masks, out=self.parameters)

    def _zeros(self, tensors: Sequence[Tensor]) -> list[PruneUnit]:
        """The units that are all zeros."""
        touched = numbers([unit.of(tensors).count_nonzero() for unit in self.units])
        return [unit for unit, count in zip(self.units, touched, strict=True) if not count]

    def _report(self) -> None:
        """Say once which units lose more than p, to ties, and which lose nothing, being all zeros."""
        shares = self.pruned_shares()
        wanted = self._wanted()
        excess = [n for n, share in shares.items() if share > wanted[n] + 0.01]
        self.pending = self._pending(shares)
        self._say("tied scores prune more than p = %s in %s", excess)
        self._say("not pruned to p = %s yet, being all zeros until they are trained: %s", self.pending)

    def _pending(self, shares: Mapping[str, float]) -> list[str]:
        sizes = {unit.name: unit.size(self._masks) for unit in self.units}
        wanted = self._wanted()
        return [n for n, share in shares.items() if share == 0 and entries_to_prune(wanted[n], sizes[n])]

    def _wanted(self) -> dict[str, float]:
        """Each unit's committed ratio."""
        ratios = ratios_of_units(self.units, self.adapters, self.p)
        return {unit.name: p for unit, p in zip(self.units, ratios, strict=True)}

    def _say(self, message: str, names: Sequence[str]) -> None:
        new = [name for name in names if name not in self._reported]
        self._reported.update(new)
        if new:
            more = f" and {len(new) - 4} more" if len(new) > 4 else ""
            logger.warning(message, format(self.p, ".3f"), ", ".join(new[:4]) + more)


def _on_gradient(parameter: nn.Parameter, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    handle: RemovableHandle = parameter.register_hook(hook)  # type: ignore[no-untyped-call]
    return handle


def _masking(adapter: "weakref.ref[MaskedAdapter]", index: int) -> Callable[[Tensor], Tensor | None]:
    """A hook on the gradient of one factor."""

    def hook(gradient: Tensor) -> Tensor | None:
        masked = adapter()
        return None if masked is None else gradient * masked._masks[index].view(torch.int8)  # see `multiply`

    return hook
