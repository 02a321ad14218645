"""One ratio for each of two adapters: the loss after training at each pair, what rows cannot tell apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grasp_lora.control.noise import MARGIN
from grasp_lora.ratios import PerAdapter, listed
from grasp_lora.reporting.blocks import Block, Bold, Data, Figure, Table, Text
from grasp_lora.reporting.drawing import GREY, INK
from grasp_lora.reporting.found import Found
from grasp_lora.reporting.ratio_map import Apart, Pair, RatioMap, Split, ratio_map

MANY = 40  # pairs, whose losses as texts would cover one another


def blocks(found: Found) -> Iterator[Block]:
    one = ratio_map(found)
    if one is None:
        return
    yield Text(_said(one))
    first, second = one.adapters
    split = one.splits[0]
    headers = ["pair", f"p of {first}", f"p of {second}", "trained by", *one.splits, f"{split} − best"]
    title = "Trained at one ratio for each adapter (nats; lower is better):"
    yield Table(title, [*headers, "within noise"], [_row(one, pair) for pair in one.pairs], "map")
    values = ("loss", "difference_from_best", "standard_error", "within_noise_of_best")
    yield Data("map", ("rows", f"p_{first}", f"p_{second}", "corner", "trained_by", *values), [*_data(one)])
    yield Figure(
        "map",
        lambda canvas: _draw(canvas, one),
        "Loss after training at one ratio for each adapter, less that of the pair that is best on "
        f"{split}. Ringed: rows cannot tell it from that one, by {MARGIN:g} nats or by a 95 % interval of "
        "paired differences; dashed: within the margin, not tested. The diagonal is one ratio for both. In a "
        "corner where nothing was trained at these ratios stands the method that trains to the same.",
        (4.9 * len(one.splits), 5.0),
    )


def _said(one: RatioMap) -> str:
    split, best = one.splits[0], one.best
    seen = {pair.p: one.apart(pair, split) for pair in one.on(split) if pair is not best}
    close = [p for p, apart in seen.items() if apart.within]
    untested = sum(apart.error is None for apart in seen.values())
    called = _called(one, best.p)
    text = (
        f"Of {len(seen) + 1} pairs of ratios ({', '.join(one.adapters)}) that were trained at, {best.p:.2f} "
        f"has the lowest {split} loss ({best.means[split]:.4f})" + (f": {called}. " if called else ". ")
    )
    noise = f", or by noise of {len(best.losses[split])} {split} rows" if split in best.losses else ""
    text += f"{len(close)} of the {len(seen)} others cannot be told from it (by {MARGIN:g} nats{noise})"
    text += f": {listed(close)}. " if close else ". "
    if untested:
        text += f"{untested} of the others are held against the margin alone: a grid keeps no row's loss. "
    common = sorted(p[0] for p in (best.p, *close) if _is_common(p))
    if common:
        return text + f"As far as that tells, one ratio for both adapters is as good: {listed(common)}."
    if any(_is_common(pair.p) for pair in one.on(split)):
        return text + "No common ratio that was trained at is among these."
    return text + "No common ratio was trained at."


def _is_common(p: PerAdapter) -> bool:
    return len(set(p)) == 1


def _called(one: RatioMap, p: PerAdapter) -> str:
    return one.corner(p) or ("one ratio for both" if _is_common(p) else "")


def _row(one: RatioMap, pair: Pair) -> list[str]:
    split = one.splits[0]
    losses = [f"{pair.means[each]:.4f}" if each in pair.means else "" for each in one.splits]
    if pair is one.best:
        losses[0] = Bold(losses[0])
    told = ["", ""]
    if split in pair.means:
        apart = one.apart(pair, split)
        said = "best" if pair is one.best else "yes" if apart.within else "no"
        told = [f"{apart.mean:+.4f}", said if apart.error is not None else f"{said} (not tested)"]
    return [_called(one, pair.p), f"{pair.p[0]:.2f}", f"{pair.p[1]:.2f}", pair.by, *losses, *told]


def _data(one: RatioMap) -> Iterator[Sequence[Any]]:
    for split in one.splits:
        for pair in one.on(split):
            told: tuple[Any, ...] = ("", "", "")
            if split in one.best.means:
                apart = one.apart(pair, split)
                told = (apart.mean, "" if apart.error is None else apart.error, apart.within)
            yield split, *pair.p, one.corner(pair.p), pair.by, pair.means[split], *told


def _draw(canvas: Any, one: RatioMap) -> None:
    seen = {
        split: [(pair, one.apart(pair, split)) for pair in one.on(split)]
        for split in one.splits
        if split in one.best.means
    }
    means = [apart.mean for pairs in seen.values() for _, apart in pairs]
    how = {"cmap": "viridis", "vmin": min(means), "vmax": max(means), "edgecolors": GREY}
    panels = canvas.subplots(1, len(seen), squeeze=False, sharey=True)[0]
    for axes, (split, pairs) in zip(panels, seen.items(), strict=True):
        chose = split == one.splits[0]
        axes.set_title(split if chose else f"{split}, against the best on {one.splits[0]}")
        _draw_pairs(axes, one, split, pairs, how)
    panels[0].set_ylabel(f"prune ratio of {one.whose[1]}")
    bar = canvas.colorbar(panels[0].collections[0], ax=list(panels), label="difference (nats)", aspect=30)
    bar.outline.set_visible(False)
    canvas.legend(*_legend(panels), loc="outside lower center", ncols=3)


def _draw_pairs(
    axes: Any, one: RatioMap, split: Split, pairs: Sequence[tuple[Pair, Apart]], how: Mapping[str, Any]
) -> None:
    x, y = zip(*(pair.p for pair, _ in pairs), strict=True)
    axes.scatter(x, y, c=[apart.mean for _, apart in pairs], s=70, zorder=3, **how)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=":", label="one ratio for both")
    close = [(pair.p, apart.error is not None) for pair, apart in pairs if apart.within]
    for tested, line, label in (
        (True, "-", "cannot be told from the best"),
        (False, "--", f"within {MARGIN:g} nats, not tested"),
    ):
        ringed = [p for p, was_tested in close if was_tested is tested]
        if ringed:
            ring = {"facecolors": "none", "edgecolors": INK, "linestyle": line, "label": label}
            axes.scatter(*zip(*ringed, strict=True), s=210, **ring)
    for pair, apart in pairs:
        best = pair is one.best
        text = f"{pair.means[split]:.4f}" if best else f"{apart.mean:+.4f}"
        text = f"best: {text}" if best and split == one.splits[0] else text
        if best or len(pairs) <= MANY:
            _write(axes, pair.p, text, -11)
        _write(axes, pair.p, one.corner(pair.p).replace(" alone", "\nalone"), 11 if pair.p[1] else -23)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    axes.set(xlim=(-0.25, 1.25), ylim=(-0.28, 1.2), xticks=ticks, yticks=ticks)
    axes.set_xlabel(f"prune ratio of {one.whose[0]}")


def _write(axes: Any, p: Sequence[float], text: str, points: int) -> None:
    """So many points above or below a pair."""
    where = {"xytext": (0, points), "textcoords": "offset points", "ha": "center", "fontsize": 8}
    axes.annotate(text, tuple(p), va="bottom" if points > 0 else "top", **where)


def _legend(panels: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """What any of the panels has, once."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    return list(found.values()), list(found)
