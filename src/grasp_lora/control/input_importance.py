"""Importance from a projection's real inputs: |BA| * ||X||_2 (Miyano & Arase, Sec. 3.2)."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from grasp_lora.control.units import InputsOf, Parts, ResetUnit, prune_units
from grasp_lora.cost import count_passes
from grasp_lora.errors import GraspError, check_choice
from grasp_lora.lm.loss import TargetLoss, evaluation_mode
from grasp_lora.ranks import is_first, summed

__all__ = ["InputImportance", "Rescore"]

Rescore = Literal["validation", "train_batch"]


class InputImportance:
    """|BA| * ||X||_2, attributed to the factors (Sec. 3.2).

    X are the projection's real inputs, before LoRA's dropout, seen by forward hooks, so any architecture
    will do; padding does not count. For an adapted embedding X are the tokens as unit vectors, so ||X_j|| is
    the root of how often token j occurs; for an adapted output embedding, what it sees: in "train_batch" the
    positions before a target alone. With S = sum_ij |(BA)_ij| ||X_j||_2 of one adapter at one site, an entry
    of A scores |dS/dA| and an entry of B |dS/dB|. PEFT's scaling is left out: it is one constant per adapter.
    Where modules are pruned as a whole, all entries of one score the mean of |(BA)_ij| ||X_j|| over its W.

    Args:
        model: The PEFT model.
        parameters: Its LoRA factors by PEFT name.
        validation: The batched validation set; not used with "train_batch".
        parts: As for `StepPruner`.
        rescore: Where X comes from. "validation": one batched pass over the validation set per call, as in
            the paper. "train_batch": the training forward passes since the call before, which cost nothing
            more; the upstream layers then have their dropout on. Call `close` when training ends.
        unit: As for `StepPruner`.
        inputs: "projection": what the projection really sees. "layer": the hidden states that its decoder
            layer begins with, divided by their root mean square, which is what q_proj, k_proj and v_proj of a
            model that normalises first see but for the norm's learned weight. The published code takes these.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        validation: TargetLoss | None = None,
        parts: Parts | None = None,
        rescore: Rescore = "validation",
        unit: ResetUnit = "parameter",
        inputs: InputsOf = "projection",
    ) -> None:
        check_choice("inputs", inputs, InputsOf)
        check_choice("rescore", rescore, Rescore)
        check_choice("unit", unit, ResetUnit)
        if rescore == "validation" and validation is None:
            raise GraspError("importance from inputs needs a validation set, or rescore='train_batch'")
        self.model, self.validation, self.unit = model, validation, unit
        self.parameters = list(parameters.values())
        self._sites = list(dict.fromkeys(name.split(".lora_")[0] for name in parameters))
        self._units = {(u.name, u.dim): u for u in prune_units(parameters, parts)}
        self._index = list(parameters)
        self._layers = _layers_of(self._sites, model) if inputs == "layer" else {}
        self._training = self._watch() if rescore == "train_batch" else None
        if self._training is not None:
            weakref.finalize(self, self._training.close)  # where training raised and nobody called `close`

    def close(self) -> None:
        """Take the hooks off the model."""
        if self._training is not None:
            self._training.close()

    def state(self) -> dict[str, Tensor]:
        """What the next call depends on: the training passes since the last one."""
        seen = {} if self._training is None else self._training.squares
        totals = {f"squares.{name}": total.clone() for name, total in seen.items()}
        for total in totals.values():  # each rank has its own part
            summed(total)
        return totals

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        if self._training is not None:
            found = {n.removeprefix("squares."): t for n, t in state.items() if n.startswith("squares.")}
            devices = {
                n.split(".lora_")[0]: w.device for n, w in zip(self._index, self.parameters, strict=True)
            }
            self._training.squares = {
                n: t.to(devices[n]) * (1 if is_first() else 0) for n, t in found.items()
            }

    @torch.no_grad()
    def __call__(self) -> list[Tensor]:
        """One score tensor per factor, of its shape."""
        norms = self.input_norms()
        scores = [torch.zeros_like(w) for w in self.parameters]
        for (name, dim), unit_a in self._units.items():
            if dim != 0:
                continue
            unit_b = self._units[name.replace(".lora_A", ".lora_B"), 1]
            x = norms[self._index[unit_a.factor].split(".lora_")[0]].to(self.parameters[unit_a.factor].device)
            a, b = unit_a.of(self.parameters).float(), unit_b.of(self.parameters).float()  # (r, in), (out, r)
            if self.unit == "module":
                mean = (b @ a).abs_().mul_(x).mean()
                unit_a.of(scores).copy_(mean.expand_as(a))
                unit_b.of(scores).copy_(mean.expand_as(b))
                continue
            signs = (b @ a).sign_()  # (out, in): by far the largest, so it is neither copied nor scaled
            unit_a.of(scores).copy_((b.T @ signs).abs_() * x)
            unit_b.of(scores).copy_((signs @ (a * x).T).abs_())
        return scores

    def input_norms(self) -> dict[str, Tensor]:
        """||X_j||_2 over all tokens, (in,) in float32, by the adapted module's name.

        Raises:
            GraspError: With "train_batch", where there was no training pass since the last call.
        """
        squares = self._of_validation() if self._training is None else self._training.take()
        if unseen := [site for site in self._sites if site not in squares]:
            raise GraspError(f"no forward pass went through {unseen[0]} since importance was last asked for")
        return {name: total.sqrt() for name, total in squares.items()}

    def _watch(self, *, training: bool = True) -> "_ProjectionInputs":
        return _ProjectionInputs(self.model, self._sites, training=training, layers=self._layers)

    def _of_validation(self) -> dict[str, Tensor]:
        assert self.validation is not None
        device = self.parameters[0].device
        inputs: dict[str, Any]
        with (
            evaluation_mode(self.model),
            closing(self._watch(training=False)) as seen,
            _one_position_for_the_head(self.model),  # after: an adapted head's inputs count as they come
        ):
            for rows, batch in zip(self.validation.rows, self.validation.batches, strict=True):
                inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
                del inputs["labels"]
                inputs.pop("logits_to_keep", None)  # the head sees every position, and computes one
                self.model(**inputs, use_cache=False)
                count_passes(forward=len(rows))
            return seen.squares


@contextmanager
def _one_position_for_the_head(model: Any) -> Iterator[None]:
    """Let the output embedding compute the batch's very last position alone: nobody reads the logits.

    One for each text costs a CPU a product with the whole vocabulary each: a fifth of the pass for
    Gemma 3 270M.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    handle = (
        head.register_forward_pre_hook(lambda _, arguments: (arguments[0][:1, -1:], *arguments[1:]))
        if isinstance(head, nn.Module)
        else None
    )
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


class _ProjectionInputs:
    """Sums over tokens of the squared inputs of modules, for as long as its hooks are on the model.

    Only what runs within the model's own forward pass counts, so what gradient checkpointing computes again
    in the backward pass does not.

    Args:
        model: Called with its `attention_mask` by keyword; without one, every token counts.
        names: The modules.
        training: Whether to count training passes only (training mode, with gradients), or all.
        layers: Module -> the decoder layer whose normalised input counts in the place of the module's own.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        *,
        training: bool = True,
        layers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.squares: dict[str, Tensor] = {}
        self._only_training = training
        self._active = False
        self._kept: Tensor | None = None  # (batch, length), False where a token is padding; None: all count
        # The same for the last so many positions, as indices of rows, on each device that the model is on.
        self._rows: dict[tuple[int, torch.device], Tensor] = {}
        self._handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
            *(
                model.get_submodule(layers.get(n, n)).register_forward_pre_hook(
                    self._adder(n, _eps(model) if n in layers else None), with_kwargs=True
                )
                for n in names
            ),
        ]

    def take(self) -> dict[str, Tensor]:
        """(in,) in float32 by name, over all passes since the last `take` and over all ranks."""
        taken, self.squares = self.squares, {}
        for total in taken.values():  # each rank had its own part of the batch
            summed(total)
        return taken

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, model: nn.Module, _: Any, inputs: Mapping[str, Any]) -> None:
        self._active = not self._only_training or (model.training and torch.is_grad_enabled())
        mask = inputs.get("attention_mask")
        self._kept, self._rows = None if mask is None else mask.bool(), {}

    def _end(self, *_: Any) -> None:
        self._active = False

    def _adder(self, name: str, eps: float | None) -> Callable[..., None]:
        @torch.no_grad()
        def add(module: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            if not self._active:
                return
            seen: Tensor = (arguments[0] if arguments else named["hidden_states"]).detach()
            if eps is not None:
                seen = seen.float() * torch.rsqrt(seen.float().square().mean(-1, keepdim=True) + eps)
            if seen.is_floating_point():
                squares = self._real(seen, name).float().square().sum(0)
            else:  # an embedding's token ids (batch, length)
                ids = seen.reshape(-1) if self._kept is None else seen[self._kept.to(seen.device)]
                squares = torch.bincount(ids, minlength=module.in_features).float()
            self.squares[name] = self.squares.get(name, 0) + squares

        return add

    def _real(self, hidden: Tensor, name: str) -> Tensor:
        """The rows of a module's input that are no padding: (tokens, in)."""
        rows = hidden.reshape(-1, hidden.shape[-1])  # some models flatten tokens first
        if self._kept is None:
            return rows
        batch, length = self._kept.shape
        if hidden.dim() == 3 and len(hidden) == batch:  # the head may be given the last positions alone
            length = min(length, hidden.shape[1])
        if len(rows) != batch * length:
            raise GraspError(
                f"{name} sees {len(rows)} of {batch * length} tokens: cannot tell which are padding"
            )
        if (place := (length, rows.device)) not in self._rows:
            self._rows[place] = self._kept[:, -length:].reshape(-1).nonzero().squeeze(1).to(rows.device)
        return rows.index_select(0, self._rows[place])


def _layers_of(sites: Iterable[str], model: nn.Module) -> dict[str, str]:
    """Site -> its decoder layer, which is the innermost member of a `ModuleList` that it is in.

    Raises:
        GraspError: It is no projection that reads the layer's normalised input.
    """
    layers = {}
    for site in sites:
        parts = site.split(".")
        above = [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]
        layer = next((a for a in above if isinstance(_parent(model, a), nn.ModuleList)), None)
        if layer is None or parts[-1] not in ("q_proj", "k_proj", "v_proj"):
            raise GraspError(f"inputs='layer' is for q_proj, k_proj and v_proj, which {site} is not")
        layers[site] = layer
    return layers


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _eps(model: Any) -> float:
    return float(getattr(model.config, "rms_norm_eps", 1e-5))
