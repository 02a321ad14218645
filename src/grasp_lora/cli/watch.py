"""The verbs that look at run directories, from their files alone: they import no torch and start at once."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_lora.cli.verbs import add_verb
from grasp_lora.errors import GraspError

if TYPE_CHECKING:
    from rich.console import Console

    from grasp_lora.reporting.progress import Progress
    from grasp_lora.workspace.leftovers import Leftover

__all__ = ["add_watch_verbs"]

WIDE = 200  # columns of a table that no terminal shows


def add_watch_verbs(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verbs to the parser of `grasp`; `common` has the options that every verb has."""

    def add(
        name: str, verb: Callable[[argparse.Namespace], None], help: str, more: str, *examples: str
    ) -> argparse.ArgumentParser:
        return add_verb(verbs, common, name, verb, help, *examples, more=more)

    watch = add(
        "watch",
        _watch,
        "Watch a run go on; ends when it is done, or at Ctrl-C.",
        "It reads the run's folder and nothing else, so it may be in any terminal, and before the run "
        "starts, too. Where stdout is no terminal it shows one frame.",
        "grasp watch runs/titles-ar",
    )
    watch.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    watch.add_argument("--once", action="store_true", help="show how far it is now, and end")
    watch.add_argument(
        "--every", type=float, default=2.0, metavar="SECONDS", help="look so often; default: 2"
    )
    runs = add(
        "runs",
        _runs,
        "List runs: state, p*, best method on dev, size.",
        "Losses are means over draws and seeds, in nats; the method is the best of those that one could "
        "deploy.",
        "grasp runs",
    )
    runs.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="default: runs")
    runs.add_argument("--json", action="store_true", help="for programs")
    clean = add(
        "clean",
        _clean,
        "Name, and remove, what is left over in run folders.",
        "That is: unfinished stages that nobody is making, stages that --force moved aside, and the "
        "Trainer's checkpoints in finished stages. Everything else stays, and links are not followed.",
        "grasp clean runs",
        "grasp clean runs/titles-ar --remove",
    )
    clean.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, or a folder of runs"
    )
    clean.add_argument("--logs", action="store_true", help="TensorBoard's logs of finished stages, too")
    clean.add_argument("--remove", action="store_true", help="remove it, after a question")
    clean.add_argument("--yes", action="store_true", help="with --remove: without the question")


def _watch(arguments: argparse.Namespace) -> None:
    from grasp_lora.reporting.progress import progress_of
    from grasp_lora.reporting.screen import frame

    if not 0.1 <= arguments.every <= 3600:
        raise GraspError(f"--every is between 0.1 and 3600 seconds, got {arguments.every:g}")
    console = _console()
    if arguments.once or not console.is_terminal or console.is_dumb_terminal:
        console.print(frame(progress_of(arguments.run), console.width))
        return
    try:
        last = _follow(arguments.run, arguments.every, console)
    except KeyboardInterrupt:
        return  # whoever watches may stop watching
    console.print(frame(last, console.width))


def _follow(run: Path, every: float, console: "Console") -> "Progress":
    """Show the run until it is done."""
    from rich.live import Live
    from rich.text import Text

    from grasp_lora.reporting.plain import harmless
    from grasp_lora.reporting.progress import is_run, progress_of
    from grasp_lora.reporting.screen import fitted

    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not is_run(run) and _may_become_one(run):
            live.update(Text(f"{harmless(str(run))}: nothing is there yet. Ctrl-C ends."), refresh=True)
            time.sleep(every)
        while (progress := progress_of(run)).state != "done":
            live.update(fitted(progress, console), refresh=True)
            time.sleep(every)
    return progress


def _may_become_one(folder: Path) -> bool:
    """Whether nothing is there yet, or a process that has not begun the first stage."""
    from grasp_lora.workspace.records import Maker

    try:
        names = [path.name for path in folder.iterdir()]
        return not names or any(Maker.FILE in name for name in names)  # or what it is called while written
    except OSError as error:
        return isinstance(error, FileNotFoundError)


def _runs(arguments: argparse.Namespace) -> None:
    from grasp_lora.reporting.overview import overviews, table_of

    found = overviews(arguments.folder)
    if arguments.json:
        print(json.dumps([one.to_json() for one in found], indent=1))
    elif found:
        console = _console(WIDE)
        console.print(table_of(found, time.time()))
    else:
        print(f"{arguments.folder} is empty")


def _clean(arguments: argparse.Namespace) -> None:
    from grasp_lora.reporting.plain import harmless, size
    from grasp_lora.workspace.leftovers import leftovers, remove

    if arguments.yes and not arguments.remove:
        raise GraspError("--yes answers the question of --remove: give both, or neither")
    runs = [run for given in arguments.runs for run in _runs_in(given)]
    found = [one for run in dict.fromkeys(runs) for one in leftovers(run, logs=arguments.logs)]
    going = [one for one in found if not one.keep]
    for one in found:
        kept = f"  stays: {one.keep}" if one.keep else ""
        print(f"{size(one.bytes):>8}  {harmless(str(one.path))}  ({one.what}){kept}")
    total = f"{len(going)} folder{'s' * (len(going) != 1)}, {size(sum(one.bytes for one in going))}"
    if not going:
        print("Nothing to remove.")
    elif not arguments.remove:
        print(f"{total} could be removed: --remove does it.")
    elif arguments.yes or _agreed(f"Remove {total}?", going):
        removed = [one for one in going if remove(one)]
        for one in going:
            if one not in removed:
                print(f"left: {harmless(str(one.path))}, which is gone or being made by now")
        print(f"Removed {len(removed)} of {len(going)}, {size(sum(one.bytes for one in removed))}.")
    else:
        print("Nothing was removed.")


def _runs_in(given: Path) -> list[Path]:
    from grasp_lora.reporting.progress import is_run

    if is_run(given):
        return [given.resolve()]
    try:
        found = sorted(path for path in given.iterdir() if is_run(path) and not path.is_symlink())
    except OSError as error:
        raise GraspError(f"{given} cannot be read ({error.strerror}): give a run's folder") from None
    if not found:
        raise GraspError(f"{given} is no run, and there is none in it")
    return [path.resolve() for path in found]


def _agreed(question: str, going: "list[Leftover]") -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise GraspError("nobody is there to be asked whether to remove these; --yes removes them unasked")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False
    except KeyboardInterrupt:
        print()
        raise KeyboardInterrupt("nothing was removed") from None


def _console(width_elsewhere: int | None = None) -> "Console":
    """Of stdout; other than a terminal, so wide."""
    from rich.console import Console

    if not sys.stdout.isatty():
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a mark that a file's encoding lacks
        return Console(width=width_elsewhere, highlight=False)
    return Console(highlight=False)
