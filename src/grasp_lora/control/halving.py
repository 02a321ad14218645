"""Successive halving over fixed masks, paired (Karnin et al., 2013; Jamieson and Talwalkar, 2016).

Candidates are trained from one start under their fixed masks, with the same rows in the same order. After
so many steps, a *rung*, the losses of the same held-out rows are compared row by row, and who stands last is
dropped; the survivor is trained to the end, so that its adapter is there already. It is in neither paper: it
asks what a mask costs after some training under it, where a probe asks before.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from grasp_lora.control.noise import MARGIN, Z, detectable, paired_error
from grasp_lora.errors import DAMAGED, GraspError, check_choice
from grasp_lora.ratios import PruneRatio, as_ratio, in_order, shown_ratio

__all__ = ["RUNGS_FILE", "Halving", "HalvingResult", "KeepRule", "Rung", "rungs_of"]

RUNGS_FILE = "rungs.json"
KeepRule = Literal["rank", "noise"]


@dataclass(frozen=True, slots=True)
class Rung:
    """What one comparison saw, and whom it kept.

    Attributes:
        step: Optimizer steps under each mask.
        losses: Candidate -> the loss of each of the rows, in nats.
        kept: The candidates that go on, the best first.
        groups: Each row's, see `paired_error`.
    """

    step: int
    losses: Mapping[PruneRatio, Sequence[float]]
    kept: Sequence[PruneRatio]
    groups: Sequence[str] = ()

    @property
    def leader(self) -> PruneRatio:
        """With the lowest mean loss."""
        return self.kept[0]

    def mean(self, p: PruneRatio) -> float:
        """Of all rows."""
        return statistics.fmean(self.losses[p])

    def behind(self, p: PruneRatio) -> tuple[float, float]:
        """By how much a candidate's loss is above the leader's, and the paired standard error of that."""
        return _behind(self.losses, p, self.leader, self.groups)

    def is_close(self, p: PruneRatio, margin: float) -> bool:
        """Whether the rows cannot tell it from the leader: by no more than the margin, or than noise."""
        mean, error = self.behind(p)
        return mean <= max(margin, Z * error)

    def rows_needed(self, margin: float) -> int | None:
        """As many rows as show a difference of the margin to the second best four times in five; None: nobody
        knows, of one candidate or one cluster of rows.
        """
        seconds = [p for p in self.losses if p != self.leader]
        _, error = self.behind(min(seconds, key=self.mean)) if seconds and margin > 0 else (0.0, math.inf)
        if not math.isfinite(error):
            return None
        return max(1, math.ceil(len(self.losses[self.leader]) * (detectable(error) / margin) ** 2))

    def to_json(self) -> dict[str, Any]:
        """Ratios are keys, as text."""
        losses = {str(p): list(values) for p, values in in_order(self.losses)}
        kept = list(map(str, self.kept))
        return {"step": self.step, "kept": kept, "groups": list(self.groups), "losses": losses}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Rung":
        """What `to_json` gave.

        Raises:
            KeyError, ValueError, TypeError: It did not.
        """
        losses = {as_ratio(p): tuple(map(float, values)) for p, values in line["losses"].items()}
        kept = tuple(as_ratio(p) for p in line["kept"])
        if not kept or not all(p in losses for p in kept) or len({*map(len, losses.values())}) != 1:
            raise ValueError("a rung that kept what it did not see")
        return cls(int(line["step"]), losses, kept, tuple(line["groups"]))


@dataclass(frozen=True, slots=True)
class HalvingResult:
    """What a search found.

    Attributes:
        best_ratio: The survivor.
        rungs: Each comparison.
        margin: In nats: a smaller difference is none.
    """

    best_ratio: PruneRatio
    rungs: tuple[Rung, ...]
    margin: float = MARGIN

    @property
    def close(self) -> tuple[PruneRatio, ...]:
        """Those of the last comparison that its rows cannot tell from the survivor, itself included."""
        if not self.rungs:
            return (self.best_ratio,)
        last = self.rungs[-1]
        return tuple(p for p, _ in in_order(last.losses) if last.is_close(p, self.margin))

    @property
    def rows_needed(self) -> int | None:
        """See `Rung.rows_needed`, of the last comparison; None where there is none, too."""
        return self.rungs[-1].rows_needed(self.margin) if self.rungs else None

    @property
    def doubt(self) -> str | None:
        """Whom the last comparison could not tell from the survivor, in a sentence; None: nobody."""
        others = ", ".join(f"{p:g}" for p in self.close if p != self.best_ratio)
        if not others:
            return None
        last, needed = self.rungs[-1], self.rows_needed
        rows = len(last.losses[self.best_ratio])
        if needed is None:
            sure = "how many would, they do not say"
        elif needed > rows:
            sure = f"it takes about {needed} to show a difference of {self.margin:g} four times in five"
        else:
            sure = f"they are enough to show a difference of {self.margin:g}"
        return (
            f"after {last.step} steps {others} was within {self.margin:g} nats of p = "
            f"{self.best_ratio:g}, or within the noise of {rows} rows; {sure}"
        )

    def write(self, folder: Path) -> None:
        """As `rungs.json`."""
        found = {"best_ratio": str(self.best_ratio), "margin": self.margin}
        found |= {"close": list(map(str, self.close)), "rows_needed": self.rows_needed}
        text = json.dumps({**found, "rungs": [rung.to_json() for rung in self.rungs]})
        (folder / RUNGS_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "HalvingResult":
        """What `write` wrote.

        Raises:
            GraspError: There is none, or it holds something else.
        """
        path = folder / RUNGS_FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            rungs = tuple(Rung.from_json(one) for one in found["rungs"])
            return cls(as_ratio(found["best_ratio"]), rungs, float(found["margin"]))
        except DAMAGED as error:
            raise GraspError(f"{path} cannot be read ({error})") from None


class Halving:
    """Who goes on: numbers in, candidates out.

    Ask `alive` and `next_step` for whom to train how far, tell the losses, until `survivor` is one.

    Args:
        candidates: Different ratios, numbers or one for each adapter.
        rungs: Optimizer steps of the comparisons, rising.
        factor: One of so many goes on at each; the last comparison leaves one.
        keep: "rank": the best by mean loss. "noise": beside them everyone who is within noise of the leader,
            or within the margin, as long as the budget lasts.
        budget: For "noise", optimizer steps that all candidates together may take up to the last rung.
        margin: In nats: a smaller difference is none.
        groups: Each row's, see `paired_error`; the first ones where fewer rows judge.

    Raises:
        GraspError: No candidates, two that are the same, or rungs that do not rise.
    """

    def __init__(
        self,
        candidates: Sequence[PruneRatio],
        rungs: Sequence[int],
        *,
        factor: int = 3,
        keep: KeepRule = "rank",
        budget: int | None = None,
        margin: float = MARGIN,
        groups: Sequence[str] = (),
    ) -> None:
        check_choice("keep", keep, KeepRule)
        if not candidates or len(set(map(shown_ratio, candidates))) < len(candidates):
            raise GraspError("halving needs candidates that are different to four decimals")
        if not rungs or sorted({*rungs}) != list(rungs) or rungs[0] < 1:
            raise GraspError(f"halving needs rungs that rise, in optimizer steps, got {list(rungs)}")
        if factor < 2:
            raise GraspError(f"factor must be at least 2, got {factor}")
        self.alive: tuple[PruneRatio, ...] = tuple(candidates)
        self.steps, self.factor, self.keep = tuple(rungs), factor, keep
        self.budget, self.margin, self.groups = budget, margin, tuple(groups)
        self.rungs: list[Rung] = []
        self.spent = 0

    @property
    def next_step(self) -> int | None:
        """Where the candidates are compared next; None where one is left, or no rung."""
        done = len(self.rungs)
        return self.steps[done] if len(self.alive) > 1 and done < len(self.steps) else None

    def tell(self, losses: Mapping[PruneRatio, Sequence[float]]) -> Rung:
        """The rows' losses of each that is alive, after `next_step` steps.

        Raises:
            GraspError: No comparison is due, somebody's are missing, or one is not a finite number.
        """
        step = self.next_step
        if step is None or losses.keys() != set(self.alive) or len({len(v) for v in losses.values()}) != 1:
            raise GraspError("halving was told of others than it asked for")
        if not all(math.isfinite(loss) for values in losses.values() for loss in values):
            raise GraspError(f"a loss after {step} steps is not a finite number; lower the learning rate")
        before = self.rungs[-1].step if self.rungs else 0
        self.spent += (step - before) * len(self.alive)
        means = {p: statistics.fmean(values) for p, values in losses.items()}
        ranked = sorted(self.alive, key=means.__getitem__)  # of equals the first candidate
        groups = self.groups[: len(losses[ranked[0]])]
        last = len(self.rungs) + 1 == len(self.steps)
        kept = ranked[: 1 if last else math.ceil(len(ranked) / self.factor)]
        if self.keep == "noise" and not last:
            for p in ranked[len(kept) :]:
                mean, error = _behind(losses, p, ranked[0], groups)
                affordable = self.budget is None or self._needs(len(kept) + 1) <= self.budget
                if mean > max(self.margin, Z * error) or not affordable:
                    break
                kept.append(p)
        rung = Rung(step, {p: tuple(losses[p]) for p in self.alive}, tuple(kept), groups)
        self.rungs.append(rung)
        self.alive = tuple(kept)
        return rung

    @property
    def result(self) -> HalvingResult:
        """The survivor and how sure it is.

        Raises:
            GraspError: Comparisons are still due.
        """
        if self.next_step is not None:
            raise GraspError(f"{len(self.alive)} candidates are left: the next comparison is due")
        return HalvingResult(self.alive[0], tuple(self.rungs), self.margin)

    def _needs(self, kept: int) -> int:
        """Steps that all have taken by the last rung, if so many go on and those after them by rank."""
        total, place = self.spent, len(self.rungs)
        for before, step in zip(self.steps[place:], self.steps[place + 1 :], strict=False):
            total += (step - before) * kept
            kept = math.ceil(kept / self.factor)
        return total


def rungs_of(steps: int, parts: Sequence[float]) -> tuple[int, ...]:
    """Optimizer steps at these parts of a training of so many, at least one, and before its last; a short
    training may have the same for two.

    Raises:
        GraspError: It has only one step.
    """
    if steps < 2:
        raise GraspError(f"a training of {steps} step has no room for a comparison: train for longer")
    return tuple(min(steps - 1, max(1, round(part * steps))) for part in parts)


def _behind(
    losses: Mapping[PruneRatio, Sequence[float]], p: PruneRatio, leader: PruneRatio, groups: Sequence[str]
) -> tuple[float, float]:
    mean = statistics.fmean(losses[p]) - statistics.fmean(losses[leader])
    if p == leader:
        return 0.0, 0.0
    error = paired_error(losses[p], losses[leader], groups)
    return mean, math.inf if error is None else error
