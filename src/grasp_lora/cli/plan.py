"""What `grasp plan` and `grasp run --dry-run` print."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grasp_lora.cost import span
from grasp_lora.reporting.plain import size

if TYPE_CHECKING:
    from grasp_lora.workspace.forecast import Forecast
    from grasp_lora.workspace.preview import Planned

__all__ = ["show"]

SHOWN = 2  # runs, of those that told something
STATES = ("done", "shared", "changed", "damaged", "unfinished", "new")


def show(found: "Forecast", *, stages: bool) -> None:
    """Print a plan with what it takes.

    Args:
        stages: Every stage on a line of its own, before the runs.
    """
    from grasp_lora.reporting.write import markdown

    if stages:
        print(f"{'state':<10} {'passes':>12} {'time':>8} stage")
        for one, seconds in zip(found.planned, found.seconds, strict=True):
            time = "" if not one.to_make else "?" if seconds is None else span(seconds)
            print(f"{one.state:<10} {one.passes:>12,} {time:>8} {one.run / one.name}")
        print()
    folders = dict.fromkeys(one.run for one in found.planned)
    rows = [_row(str(run), [one for one in found.planned if one.run == run]) for run in folders]
    if len(rows) > 1:
        rows.append(_row("all", found.planned))
    print(markdown(["run", "stages", *STATES, "example passes at most"], rows))
    if any(one.to_make for one in found.planned):
        print("", _time(found), _memory(found), _disk(found), sep="\n")
    else:
        print("\nAll is done.")
    if any(one.state == "changed" for one in found.planned):
        print("\nChanged stages had other settings, or need one that changes: run --force makes them again.")
    if any(one.state == "damaged" for one in found.planned):
        print("\nOf damaged stages a file is missing or was changed: run --force makes them again.")


def _row(name: str, stages: "Sequence[Planned]") -> list[str]:
    counts = [sum(one.state == state for one in stages) for state in STATES]
    passes = sum(one.passes for one in stages if one.to_make)
    return [name, *map(str, (len(stages), *counts)), f"{passes:,}"]


def _time(found: "Forecast") -> str:
    known = span(found.known_seconds)
    if not found.unknown:
        return f"Time: about {known}{_by(found)}."
    more = f"; about {known} for the others{_by(found)}" if found.known_seconds else ""
    return (
        f"Time: unknown for {len(found.unknown)} stages{more}. No finished run in the same folder has such\n"
        "stages with the same backbone, device and dtype; a short one tells: name=short training.max_steps=20"
    )


def _by(found: "Forecast") -> str:
    return f", by what such stages took in {_runs(found.learned_from)}" if found.learned_from else ""


def _memory(found: "Forecast") -> str:
    if found.memory is None:
        return "Memory: unknown, since the backbone is not on this machine yet, or of a shape of its own."
    gpu = f", and {size(found.gpu_memory)} of the GPU's" if found.gpu_memory else ""
    how = f"the highest in {_runs(found.learned_from)}" if found.recorded else "an estimate from shapes"
    return f"Memory: about {size(found.memory)}{gpu}, {how}."


def _disk(found: "Forecast") -> str:
    if found.disk is None:
        return "Disk: unknown, since the backbone is not on this machine yet, or of a shape of its own."
    line = f"Disk: about {size(found.disk)} more, checkpoints included; {size(found.free)} are free."
    fits = found.disk < found.free
    return (
        line
        if fits
        else f"{line}\nWarning: that does not fit. Free some space, or set runs=FOLDER elsewhere."
    )


def _runs(folders: Sequence[Path]) -> str:
    named = ", ".join(str(folder) for folder in folders[:SHOWN])
    more = len(folders) - SHOWN
    return named + (f" and {more} other{'s' if more > 1 else ''}" if more > 0 else "")
