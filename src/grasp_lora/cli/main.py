"""The parser of `grasp`, and what becomes of errors."""

import argparse
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from grasp_lora.cli.adapters import add_adapter_verbs
from grasp_lora.cli.completion import add_completion
from grasp_lora.cli.config import add_config_verb
from grasp_lora.cli.data import add_data_verbs
from grasp_lora.cli.generate import add_generate_verb
from grasp_lora.cli.report import add_report_verbs
from grasp_lora.cli.run import add_run_verbs
from grasp_lora.cli.verbs import beginning_with
from grasp_lora.cli.watch import add_watch_verbs
from grasp_lora.errors import GraspError
from grasp_lora.failures import advice
from grasp_lora.reporting.plain import harmless
from grasp_lora.version import __version__

__all__ = ["build_parser", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Exit code 2 is bad input: one message, no traceback unless `--debug`."""
    # Imports make a million objects that stay: looking for unused ones as often as usual takes a tenth more.
    gc.set_threshold(10_000)
    parser = build_parser()
    arguments, more = parser.parse_known_args(argv)
    # argparse gives up on positional arguments after an option; these are overrides that stand there.
    if not hasattr(arguments, "overrides") or any("=" not in one or one.startswith("-") for one in more):
        arguments = parser.parse_args(argv) if more else arguments
    else:
        arguments.overrides += more
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("grasp_lora").setLevel(logging.INFO)
    # PEFT imports it, wanted or not, and it asks for more packages.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")
    try:
        _check_launcher(arguments)
        arguments.verb(arguments)
    except BrokenPipeError:  # of `grasp ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        what = str(error) if isinstance(error, GraspError) else advice(error)
        if arguments.debug or what is None:
            raise
        said = "\n".join(map(harmless, what.split("\n")))  # it may quote a file from elsewhere
        print(f"grasp: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:  # with a text where a verb raised it
        what = str(interrupt) or "the same command continues with what is not done"
        bar = "\n" if sys.stderr.isatty() else ""  # which may stand in this line
        print(f"{bar}grasp: interrupted; {what}", file=sys.stderr)
        return 128 + getattr(interrupt, "signal", signal.SIGINT)
    return 0


def _check_launcher(arguments: argparse.Namespace) -> None:
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1" and not getattr(arguments, "may_be_launched", False):
        raise GraspError(
            f"a launcher started {processes} processes, which would all do and write the same. Start this "
            "verb once, without it; a launcher is for grasp run, and for your own scripts"
        )


def build_parser() -> argparse.ArgumentParser:
    """The parser of `grasp` with all verbs."""
    parser = argparse.ArgumentParser(
        prog="grasp",
        **beginning_with(
            "grasp demo                 # a small real model and real text, in minutes",
            "grasp run titles.yaml      # your own",
            "grasp config --explain     # every key of such a file",
            then="Learn how much of a merged LoRA adapter to prune. VERB --help says more of each.",
        ),
    )
    parser.add_argument("--version", action="version", version=f"grasp-lora {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add_run_verbs(verbs, common)
    add_report_verbs(verbs, common)
    add_watch_verbs(verbs, common)
    add_adapter_verbs(verbs, common)
    add_generate_verb(verbs, common)
    add_config_verb(verbs, common)
    add_data_verbs(verbs, common)
    add_completion(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
