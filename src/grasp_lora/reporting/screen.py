"""What `grasp watch` shows of a run: what is being made, the controller, the methods, the stages."""

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grasp_lora.control.rounds import Round
from grasp_lora.cost import span
from grasp_lora.ratios import each
from grasp_lora.reporting.making import Making
from grasp_lora.reporting.plain import ago, harmless, ratio, sparkline
from grasp_lora.reporting.progress import BETWEEN, Learning, Progress
from grasp_lora.reporting.scored import Scored
from grasp_lora.workspace.records import REPORT

__all__ = ["fitted", "frame"]

NARROW = 60  # columns, below which a round is shown by its best probe alone
CURVE = 24  # columns of a small curve
BAR = 60  # columns of a bar, at most
STATES = {"running": "green", "done": "bold green", "stopped": "yellow"}
EVERYTHING = (8, 1000, 5)
# Rows of rounds, methods and stages; a terminal gets the first that it has lines for.
HEIGHTS = (
    EVERYTHING, (8, 1000, 2), (5, 1000, 1), (5, 20, 1), (4, 14, 1), (3, 10, 1), (3, 8, 1), (2, 6, 1),
    (2, 5, 1), (1, 4, 1), (1, 3, 0), (0, 3, 0), (0, 2, 0), (0, 1, 0), (0, 0, 0),
)  # fmt: skip


def fitted(progress: Progress, console: Console) -> RenderableType:
    """As much of the frame as the terminal has lines for: of its lists, so many rows each."""
    for rows in HEIGHTS:
        shown = frame(progress, console.width, rows)
        if len(console.render_lines(shown, pad=False)) <= console.height:
            break
    return shown


def frame(progress: Progress, width: int, rows: tuple[int, int, int] = EVERYTHING) -> Group:
    """All that is known of a run, in so many columns.

    Args:
        rows: At most so many of the last rounds, the best methods, the last stages.
    """
    rounds, methods, stages = rows
    parts: list[RenderableType] = [_header(progress, width)]
    parts += [_making(one, progress, width) for one in progress.making]
    if progress.learning is not None and progress.learning.rounds:
        parts.append(_learning(progress.learning, width, rounds))
    if progress.scored and methods:
        parts.append(_methods(progress, methods))
    if progress.made and stages:
        parts.append(_stages(progress, stages))
    if progress.verdict:
        parts.append(_verdict(progress))
    return Group(*(Padding(part, (0, 0, 1, 0), expand=False) for part in parts[:-1]), parts[-1])


def _header(progress: Progress, width: int) -> Group:
    name = (harmless(progress.folder.resolve().name), "bold")
    damage = f", {progress.unreadable} unreadable" if progress.unreadable else ""
    title = Text.assemble(name, "  ", (progress.state, STATES[progress.state]), (damage, "bold red"))
    about = Text(harmless(progress.about), "dim", no_wrap=True, overflow="ellipsis")
    done, of = progress.stages if progress.stages[1] else progress.methods
    lines: list[RenderableType] = [title, about]
    if of:
        lines += [_bar(done, of, width), _counts(progress)]
    if progress.state == "stopped":
        when = ago(progress.now - progress.changed)
        text = f"Nobody seems to be making it: the last change was {when}. The same command continues."
        lines.append(Text(text, "yellow"))
    return Group(*lines)


def _bar(done: int, of: int, width: int, indent: int = 0) -> Padding:
    """On a line of its own, which a bar alone does not end."""
    bar = ProgressBar(of, done, width=min(width, BAR), complete_style="cyan", finished_style="green")
    return Padding(bar, (0, 0, 0, indent), expand=False)


def _counts(progress: Progress) -> Text:
    counts = []
    if progress.stages[1]:
        counts.append(f"{progress.stages[0]} of {progress.stages[1]} stages")
    if progress.methods[1]:
        counts.append(f"{progress.methods[0]} of {progress.methods[1]} methods")
    if progress.left is not None:
        # Trainings that stop early make it less; what other processes do meanwhile makes it more.
        counts.append(f"about {span(progress.left)} left")
    return Text(" · ".join(counts))


def _making(one: Making, progress: Progress, width: int) -> Group:
    quiet = span(progress.now - one.changed)
    if not one.alive:
        why = "" if one.held is None else ", and nobody holds it"
        line = Text.assemble(
            ("■ ", "yellow"), (harmless(one.name), "bold"), no_wrap=True, overflow="ellipsis"
        )
        return Group(line, Text(f"  not finished: no change for {quiet}{why}", "yellow"), *_curves(one))
    line = Text.assemble(("▶ ", "green"), (harmless(one.name), "bold"))
    elapsed = None if progress.started is None else progress.now - progress.started
    details = []
    if one.trials:
        details.append(f"{one.trials} trials done")
    if one.step is not None:
        details.append(f"step {one.step}" + (f" of {one.steps}" if one.steps else ""))
    if elapsed is not None and elapsed >= 0:
        details.append(span(elapsed))
        if one.steps and one.step and not one.trials:
            details.append(f"about {span(elapsed * (one.steps - one.step) / one.step)} left")
    if progress.now - one.changed > 60:
        details.append(f"no change for {quiet}" + (", its process is alive" if one.held else ""))
    lines: list[RenderableType] = [line]
    if one.steps:
        lines.append(_bar(one.step or 0, one.steps, width - 2, 2))
    lines.append(Text("  " + " · ".join(details)))
    if one.held is False and progress.now - one.changed > BETWEEN:
        lines.append(Text("  no process on this machine holds it: it may have been stopped", "yellow"))
    return Group(*lines, *_curves(one))


def _curves(one: Making) -> Iterator[Text]:
    if one.losses:
        yield Text.assemble(
            "  loss  ", (f"{one.losses[-1]:.3f}", "bold"), "  ", (sparkline(one.losses, CURVE), "cyan")
        )
    if one.dev_losses:
        best, text = min(one.dev_losses), Text("  dev   ")
        for number, loss in enumerate(one.dev_losses):
            text.append(f"{loss:.3f}", "bold green" if loss == best else "")
            text.append("" if number == len(one.dev_losses) - 1 else " → ", "dim")
        yield text


def _learning(learning: Learning, width: int, rows: int) -> Group:
    """p_curr from round to round, and what each round's probes saw: better than p_curr green, worse red."""
    rounds, last = learning.rounds, learning.rounds[-1]
    title = Text.assemble(
        ("controller  ", "bold"), harmless(learning.name), no_wrap=True, overflow="ellipsis"
    )
    policy = Text(f"  round {last.round}  mu {last.mu_next:.3f}  sigma {last.sigma_next:.3f}")
    found = ("" if learning.p is None else f"  p* {learning.p:.3f}", "bold green")
    curves = list(_ratio_curves(learning, width))
    curves[-1].append(*found)
    lines = [title, policy, *curves]
    if not rows:
        return Group(*lines)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("round", "p"):
        table.add_column(name, justify="right")
    table.add_column("best probe" if width < NARROW else "probes: p and reward")
    table.add_column("")
    for one in rounds[-rows:]:
        table.add_row(
            str(one.round), f"{one.p_curr:.3f}", _probes(one, width), "moved" if one.committed else ""
        )
    return Group(*lines, Padding(table, (0, 0, 0, 1)))


def _ratio_curves(learning: Learning, width: int) -> Iterator[Text]:
    """p_curr over the rounds: one curve, or one for each adapter that has a ratio of its own."""
    committed = [learning.rounds[0].p_curr, *(one.p_next for one in learning.rounds)]
    columns = list(zip(*map(each, committed), strict=True))
    named = len(columns) > 1 and len(columns) == len(learning.adapters)
    names = learning.adapters if named else [""] * len(columns)
    for name, ratios in zip(names, columns, strict=True):
        bars = sparkline(ratios, min(CURVE, width - 27 - len(name)))
        label = f"  p {harmless(name)} ".rstrip()
        yield Text.assemble(f"{label} {ratios[0]:.3f} ", (bars, "magenta"), f" {ratios[-1]:.3f}")


def _probes(one: Round, width: int) -> Text:
    probes = one.probes if width >= NARROW else [max(one.probes, key=lambda probe: probe.reward)]
    text = Text()
    for probe in probes:
        text.append(f"{probe.p:.2f} ")
        text.append(f"{probe.reward:+.4f}   ", "green" if probe.reward >= 0 else "red")
    text.rstrip()
    return text


def _methods(progress: Progress, rows: int) -> Table:
    """The best on dev first; those without one last."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", overflow="ellipsis", no_wrap=True)
    for name in ("p", "dev", "test"):
        table.add_column(name, justify="right", no_wrap=True)
    several = any(one.rows > 1 for one in progress.scored)
    if several:
        table.add_column("runs", justify="right", no_wrap=True)
    ordered = sorted(progress.scored, key=lambda one: one.order)
    shown = ordered[:rows]
    for one in shown:
        style = "bold green" if one is progress.best else ""
        table.add_row(*_method(one), *([str(one.rows)] if several else []), style=style)
    if len(shown) < len(ordered):
        table.add_row(f"and {len(ordered) - len(shown)} more", style="dim")
    return table


def _method(one: Scored) -> tuple[RenderableType, ...]:
    dev = "" if one.dev_loss is None else f"{one.dev_loss:.4f}"
    return Text(harmless(one.method)), ratio(one.p), dev, f"{one.test_loss:.4f}"


def _stages(progress: Progress, rows: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="ellipsis", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    if len(progress.made) > rows:
        before = progress.made[: len(progress.made) - rows]
        table.add_row(f"✓ {len(before)} stages before", span(sum(one.seconds for one in before)), style="dim")
    for one in progress.made[len(progress.made) - rows :]:
        table.add_row(Text.assemble(("✓ ", "green"), harmless(one.name)), span(one.seconds))
    return table


def _verdict(progress: Progress) -> Group:
    where = Text(f"The report: {harmless(str(progress.folder / REPORT))}/", "dim")
    lines = [Padding(Text(harmless(line)), (0, 0, 1, 0)) for line in progress.verdict]
    return Group(*lines, where)
