"""The verbs that make stages of a run, or look at them."""

import argparse
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

from grasp_lora.cli.verbs import add_verb
from grasp_lora.errors import GraspError

if TYPE_CHECKING:
    from grasp_lora.experiment import Result
    from grasp_lora.methods.start import Start

__all__ = ["add_run_verbs"]

Verb = Callable[[argparse.Namespace], None]
DEMOS = {"ar": "demo.yaml", "zh": "demo_zh.yaml", "ja": "demo_ja.yaml"}


def add_run_verbs(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verbs to the parser of `grasp`; `common` has the options that every verb has."""

    def configured(
        name: str, verb: Verb, help: str, *examples: str, more: str = ""
    ) -> argparse.ArgumentParser:
        parser = add_verb(verbs, common, name, verb, help, *examples, more=more)
        parser.add_argument("config", type=Path, help="YAML file")
        return _overridable(parser)

    run = configured(
        "run",
        _run,
        "Run experiments, from adapters to the report.",
        "grasp run titles.yaml",
        "grasp run titles.yaml control.every=5 name=titles-k5",
        "grasp run titles.yaml questions.yaml",
        "grasp run titles.yaml --dry-run",
    )
    run.set_defaults(may_be_launched=True)
    _plannable(run)
    plan = add_verb(
        verbs,
        common,
        "plan",
        _plan,
        "Show what runs would make, and what that takes.",
        "grasp plan titles.yaml",
        "grasp plan titles.yaml methods=all --stages",
    )
    plan.add_argument("config", type=Path, help="YAML file; or several")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. control.every=5")
    plan.add_argument("--stages", action="store_true", help="every stage, in the order in which it is made")
    _add_steps(configured)
    _add_looks(verbs, common)
    demo = add_verb(
        verbs,
        common,
        "demo",
        _demo,
        "Learn a ratio on a small real model, in minutes.",
        "grasp demo",
        "grasp demo zh",
    )
    shown = "{" + ",".join(DEMOS) + "}"
    demo.add_argument("language", nargs="?", default="ar", metavar=shown, help="target language")
    _plannable(_overridable(demo))


def _plannable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="show stages, time, memory and disk, then what would be refused; write nothing",
    )


def _overridable(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. control.every=5")
    parser.add_argument("--force", action="store_true", help="make stages again whose settings changed")
    return parser


def _add_steps(configured: Callable[..., argparse.ArgumentParser]) -> None:
    """The steps of `grasp run`, one at a time."""
    adapter = configured(
        "adapter",
        _adapter,
        "Train the source's or the target's adapter.",
        "grasp adapter titles.yaml --side source",
    )
    adapter.add_argument("--side", choices=["source", "target"], required=True)
    configured("merge", _merge, "Merge the adapters.", "grasp merge titles.yaml")
    configured("learn", _learn, "Learn the prune ratio of the merged adapter.", "grasp learn titles.yaml")
    final = configured(
        "finetune",
        _finetune,
        "Prune the merged adapter once and fine-tune it.",
        "grasp finetune titles.yaml",
        "grasp finetune titles.yaml --p 0.3",
    )
    final.add_argument("--p", type=float, help="prune ratio in [0, 1]; default: the learned one")


def _add_looks(verbs: Any, common: argparse.ArgumentParser) -> None:
    score = add_verb(
        verbs,
        common,
        "evaluate",
        _evaluate,
        "Score any adapter as an experiment's methods are.",
        "grasp evaluate path/to/adapter titles.yaml --split dev",
    )
    score.add_argument("adapter", help="a folder, or OWNER/NAME[@REVISION] on the model hub")
    score.add_argument("config", type=Path, help="YAML file")
    _overridable(score)
    score.add_argument("--split", default="test", help="of the target, or one of target.tests; default: test")
    score.add_argument("--name", help="in the run's folder; default: after the adapter")
    compare = add_verb(
        verbs,
        common,
        "compare",
        _compare,
        "Is one method better than another, or is it luck?",
        "grasp compare titles.yaml merge grasp",
        "grasp compare runs/titles-ar runs/titles-k5 --against runs/titles-ar:merge",
    )
    compare.add_argument(
        "what",
        nargs="+",
        metavar="CONFIG|METHOD|RUN:METHOD|RUN|key=value",
        help="a YAML file and METHODs of its run; or methods of any runs' folders; or whole runs",
    )
    compare.add_argument("--against", metavar="METHOD|RUN:METHOD", help="what the others are tested against")
    compare.add_argument("--test", choices=("randomisation", "bootstrap"), default="randomisation")


def _start(arguments: argparse.Namespace) -> "Start":
    from grasp_lora.experiment import start

    return start(arguments.config, arguments.overrides)


def _run(arguments: argparse.Namespace) -> None:
    from grasp_lora.experiment import read_configs, report_of, run, start
    from grasp_lora.ranks import is_first
    from grasp_lora.reporting.page import PAGE_FILE
    from grasp_lora.workspace.records import REPORT, SUMMARY_FILE

    if arguments.dry_run:
        arguments.stages = True
        _plan(arguments)
        return
    files = [arguments.config, *_more_configs(arguments)]
    read = [read_configs(file, arguments.overrides) for file in files]
    results = run([config for configs in read for config in configs], force=arguments.force)
    if not is_first():
        return
    if len(results) == 1:
        print((results[0].folder / REPORT / SUMMARY_FILE).read_text(encoding="utf-8"))
        _show_adapter(start(read[0][0]), results[0])
    for result in results:
        print(f"Everything is in {result.folder}/; the report: {result.folder / REPORT / PAGE_FILE}")
    for file, configs in zip(files, read, strict=True):
        if len(configs) > 1:
            print(f"All runs of {file} together: {report_of(file, configs)}")


def _more_configs(arguments: argparse.Namespace) -> list[str]:
    """Further YAML files, which argparse takes for overrides."""
    files = [one for one in arguments.overrides if "=" not in one and one.endswith((".yaml", ".yml"))]
    arguments.overrides = [one for one in arguments.overrides if one not in files]
    return files


def _plan(arguments: argparse.Namespace) -> None:
    from grasp_lora.cli.plan import show
    from grasp_lora.experiment import check, forecast

    files = [arguments.config, *_more_configs(arguments)]
    show(forecast(files, arguments.overrides), stages=arguments.stages)
    if getattr(arguments, "dry_run", False):
        check(files, arguments.overrides)


def _show_adapter(x: "Start", result: "Result") -> None:
    if result.adapter is not None:
        from grasp_lora.lm.chat import ENCODES

        print(
            _HOW_TO_LOAD.format(
                backbone=x.model.path,
                adapter=result.adapter,
                prompt=x.task.template(x.config.target.language).text,
                encodes=indent(ENCODES[x.limits.prompt_format], " " * 4),
                tokens=x.limits.answer,
            )
        )
        if (how := x.model.quantization) is not None:
            print(f"Note: it was trained beside linear layers in {how}; beside full ones answers may differ.")
        _note_loaders(result.adapter)


_HOW_TO_LOAD = """The adapter to deploy: {adapter}. With PEFT alone:

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained("{backbone}")
    model = AutoModelForCausalLM.from_pretrained("{backbone}")
    model = PeftModel.from_pretrained(model, "{adapter}")
    prompt = {prompt!r}  # your text in the place of the braces
{encodes}
    answer = model.generate(**ids, max_new_tokens={tokens}, do_sample=False)[0, ids["input_ids"].shape[1] :]
    print(tokenizer.decode(answer, skip_special_tokens=True))
"""


def _adapter(arguments: argparse.Namespace) -> None:
    from grasp_lora.experiment import make
    from grasp_lora.methods.steps import adapters_of
    from grasp_lora.workspace.stage import Stage

    x = _start(arguments)
    adapters = adapters_of(x, arguments.side)
    trained = [adapter for adapter in adapters if isinstance(adapter, Stage)]
    made = iter(make(x, trained, force=arguments.force))  # looks at what is given
    print(*(next(made) if isinstance(one, Stage) else one for one in adapters), sep="\n")


def _merge(arguments: argparse.Namespace) -> None:
    from grasp_lora.experiment import make
    from grasp_lora.methods.steps import merges

    x = _start(arguments)
    for merged in make(x, merges(x), force=arguments.force):
        print(merged)
        _note_loaders(merged)


def _learn(arguments: argparse.Namespace) -> None:
    from grasp_lora.control.rounds import ROUNDS_FILE
    from grasp_lora.experiment import make
    from grasp_lora.methods.steps import learning_run
    from grasp_lora.workspace.records import LearnedRatio

    x = _start(arguments)
    (folder,) = make(x, [learning_run(x)], force=arguments.force)
    print(f"p* = {LearnedRatio.read(folder).p:.4f}, from {folder / ROUNDS_FILE}")


def _finetune(arguments: argparse.Namespace) -> None:
    from grasp_lora.experiment import make
    from grasp_lora.methods.steps import final_runs, fixed_runs

    x, p = _start(arguments), arguments.p
    if p is not None and not 0.0 <= p <= 1.0:
        raise GraspError(f"--p is a ratio between 0 and 1, got {p}")
    stages = final_runs(x) if p is None else fixed_runs(x, p)
    print(*make(x, stages, force=arguments.force), sep="\n")


def _compare(arguments: argparse.Namespace) -> None:
    from grasp_lora.experiment import compare

    what = [one for one in arguments.what if "=" not in one]
    overrides = [one for one in arguments.what if "=" in one]
    print(compare(what, arguments.against, arguments.test, overrides))


def _evaluate(arguments: argparse.Namespace) -> None:
    from grasp_lora.experiment import evaluate
    from grasp_lora.reporting.write import markdown

    x = _start(arguments)
    row = evaluate(x, arguments.adapter, split=arguments.split, name=arguments.name, force=arguments.force)
    scores = {"dev loss": f"{row.dev_loss:.4f}", f"{row.test_set or 'test'} loss": f"{row.test_loss:.4f}"}
    scores |= {name: f"{score['value']:.2f}" for name, score in row.scores.items()}
    print(markdown(["adapter", *scores], [[row.method, *scores.values()]]))


def _demo(arguments: argparse.Namespace) -> None:
    if "=" in arguments.language:  # a setting comes first: the language was left out
        arguments.overrides.insert(0, arguments.language)
        arguments.language = "ar"
    if arguments.language not in DEMOS:
        raise GraspError(f"there is no demo in {arguments.language!r}, only in {', '.join(DEMOS)}")
    with as_file(files("grasp_lora") / "configs") as folder:
        arguments.config = folder / DEMOS[arguments.language]
        _run(arguments)


def _note_loaders(adapter: Path) -> None:
    from grasp_lora.merging.writing import other_loaders

    if note := other_loaders(adapter):
        print(f"Note: {note}")
