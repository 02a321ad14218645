"""The command `grasp`: the only place that reads argv."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from grasp_lora.cli.data import add_data_verbs
from grasp_lora.errors import GraspError
from grasp_lora.version import __version__

if TYPE_CHECKING:
    from grasp_lora.config import Config

__all__ = ["main"]

DEMOS = {"ar": "demo.yaml", "zh": "demo_zh.yaml", "ja": "demo_ja.yaml"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Exit code 2 is bad input: one message, no traceback unless `--debug`."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("grasp_lora").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")
    try:
        arguments.verb(arguments)
    except GraspError as error:
        if arguments.debug:
            raise
        print(f"grasp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "grasp: interrupted; the same command continues with what is not done",
            file=sys.stderr,
        )
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grasp", description="Learn how much of a merged LoRA to prune.")
    parser.add_argument("--version", action="version", version=f"grasp-lora {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def configured(name: str, verb: object, help: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, parents=[common], help=help, description=help)
        sub.set_defaults(verb=verb)
        return sub

    def with_config(name: str, verb: object, help: str) -> argparse.ArgumentParser:
        sub = configured(name, verb, help)
        sub.add_argument("config", type=Path, help="YAML file")
        sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. control.every=5")
        sub.add_argument("--force", action="store_true", help="make stages again whose settings changed")
        return sub

    with_config("run", _run, "Run a whole experiment: adapters, merge, learn, final run, evaluation, report.")
    adapter = with_config("adapter", _adapter, "Train the source's or the target's adapter.")
    adapter.add_argument("--side", choices=["source", "target"], required=True)
    with_config("merge", _merge, "Merge the two adapters.")
    with_config("learn", _learn, "Learn the prune ratio of the merged adapter.")
    final = with_config("finetune", _finetune, "Prune the merged adapter once and fine-tune it.")
    final.add_argument("--p", type=float, help="prune ratio in [0, 1]; default: the learned one")
    with_config("config", _config, "Print the resolved config.")
    compare = configured("compare", _compare, "Is one method of a finished run better, or is it luck?")
    compare.add_argument("config", type=Path, help="the run's YAML file")
    compare.add_argument("methods", nargs=2, metavar="METHOD", help="as in the folder eval/ of the run")
    compare.add_argument("overrides", nargs="*", metavar="key=value", help="those of the run")
    compare.add_argument("--test", choices=("randomisation", "bootstrap"), default="randomisation")
    compare.set_defaults(force=False)
    demo = configured("demo", _demo, "Learn a ratio on a small real model and real text, in minutes.")
    demo.add_argument("language", nargs="?", choices=list(DEMOS), default="ar", help="target language")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. control.every=5")
    demo.add_argument("--force", action="store_true", help="make stages again whose settings changed")
    add_data_verbs(verbs, common)
    return parser


def _load(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Config, its inputs and its run directory."""
    from grasp_lora.config_file import load_config
    from grasp_lora.stages.inputs import Inputs
    from grasp_lora.stages.run_directory import RunDirectory

    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise GraspError(
            f"a launcher started {processes} processes, which would all write the same run directory. "
            "Start grasp once, without it; a launcher is for GraspCallback in your own Trainer"
        )
    config = load_config(arguments.config, arguments.overrides)
    return config, Inputs(config), RunDirectory(config.folder, config=config.dump(), force=arguments.force)


def _run(arguments: argparse.Namespace) -> None:
    from grasp_lora.executors.local import execute
    from grasp_lora.plan import plan
    from grasp_lora.stages.ready import check_ready

    config, inputs, run = _load(arguments)
    check_ready(inputs)
    execute(plan(config, inputs, run))
    print((run.path("report") / "summary.md").read_text(encoding="utf-8"))
    print(f"Everything is in {run.root}/; the report in {run.path('report')}/")
    if "grasp" in config.methods:
        adapter = run.path(f"final/seed{config.seeds[0]}")
        print(_HOW_TO_LOAD.format(backbone=inputs.backbone_path, report=run.path("report"), adapter=adapter))
        _note_loaders(adapter)


_HOW_TO_LOAD = """The trajectory: {report}/trajectory.png
The sparse adapter: {adapter}. To load it with PEFT alone:

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained("{backbone}")
    model = AutoModelForCausalLM.from_pretrained("{backbone}")
    model = PeftModel.from_pretrained(model, "{adapter}")
"""


def _make(  # type: ignore[no-untyped-def]
    arguments: argparse.Namespace,
    names: "Callable[[Config], Sequence[str]]",
    after: Sequence[str] = (),
):
    """Make some stages of GRASP's plan; those that they need must be done, with the same settings.

    Args:
        after: What is needed, where the named ones stand in no plan: the caller makes them.
    """
    from grasp_lora.executors.local import execute
    from grasp_lora.plan import needed, plan
    from grasp_lora.stages.ready import check_adapters

    config, inputs, run = _load(arguments)
    check_adapters(inputs)
    run.only = set(names(config))
    jobs = plan(config.model_copy(update={"methods": ("grasp",), "variants": {}}), inputs, run)
    execute(needed(jobs, *(after or run.only)))
    return config, inputs, run


def _adapter(arguments: argparse.Namespace) -> None:
    from grasp_lora.stages.inputs import adapter_folder

    config, _, run = _make(arguments, lambda config: [f"adapters/{getattr(config, arguments.side).language}"])
    print(adapter_folder(run, getattr(config, arguments.side)))


def _merge(arguments: argparse.Namespace) -> None:
    _, _, run = _make(arguments, lambda config: ["merged"])
    print(run.path("merged"))
    _note_loaders(run.path("merged"))


def _learn(arguments: argparse.Namespace) -> None:
    from grasp_lora.stages.finetune import learned_ratio

    _, inputs, run = _make(arguments, lambda config: [f"learn/seed{config.seed}"])
    print(f"p* = {learned_ratio(inputs, run):.4f}, from {run.path(inputs.learn_stage())}/rounds.jsonl")


def _finetune(arguments: argparse.Namespace) -> None:
    from grasp_lora.stages.finetune import finetune

    p = arguments.p
    if p is not None and not 0.0 <= p <= 1.0:
        raise GraspError(f"--p is a ratio between 0 and 1, got {p}")
    folder = "final/" if p is None else f"fixed/p{p:.2f}-"
    config, inputs, run = _make(
        arguments,
        lambda config: [f"{folder}seed{seed}" for seed in config.seeds],
        after=() if p is None else ["merged"],
    )
    for seed in config.seeds:
        name = f"{folder}seed{seed}"
        print(run.path(name) if p is None else finetune(inputs, run, seed, name, p))


def _note_loaders(adapter: Path) -> None:
    from grasp_lora.merging.writing import other_loaders

    if note := other_loaders(adapter):
        print(f"Note: {note}")


def _compare(arguments: argparse.Namespace) -> None:
    from grasp_lora.stages.compare import compare

    _, inputs, run = _load(arguments)
    print(compare(inputs, run, arguments.methods, arguments.test))


def _config(arguments: argparse.Namespace) -> None:
    from grasp_lora.config_file import load_config

    print(load_config(arguments.config, arguments.overrides).dump(), end="")


def _demo(arguments: argparse.Namespace) -> None:
    with as_file(files("grasp_lora") / "configs") as folder:
        arguments.config = folder / DEMOS[arguments.language]
        _run(arguments)


if __name__ == "__main__":
    sys.exit(main())
